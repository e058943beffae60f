select memberships.kind, memberships.group_id
from {{ ref('stg_autopilot__memberships') }} as memberships
left join {{ ref('autopilot__groups') }} as answered
    on answered.kind = memberships.kind
    and answered.group_id = memberships.group_id
where answered.group_id is null
