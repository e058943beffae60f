select kind, group_id
from {{ ref('autopilot__groups') }}
group by kind, group_id
having count(*) > 1
