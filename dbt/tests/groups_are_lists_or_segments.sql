select kind, group_id
from {{ ref('autopilot__groups') }}
where kind not in ('list', 'segment')
