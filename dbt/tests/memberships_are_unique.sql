select kind, group_id, contact_id
from {{ ref('stg_autopilot__memberships') }}
group by kind, group_id, contact_id
having count(*) > 1
