-- The same contacts before and after the joins.
select coalesce(staged.contact_id, answered.contact_id) as contact_id
from {{ ref('stg_autopilot__contacts') }} as staged
full outer join {{ ref('autopilot__contacts') }} as answered
    on answered.contact_id = staged.contact_id
where staged.contact_id is null or answered.contact_id is null
