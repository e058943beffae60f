select id, event
from {{ ref('stg_autopilot__email_events') }}
where event not in ({% for event in autopilot.events() %}'{{ event }}'{{ ', ' if not loop.last }}{% endfor %})
