select contact_id, engagement
from {{ ref('autopilot__contacts') }}
where engagement not in ('active', 'lapsed', 'never')
