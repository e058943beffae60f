select messages.email_id, messages.campaign_id
from {{ ref('autopilot__messages') }} as messages
left join {{ ref('autopilot__journeys') }} as journeys
    on journeys.campaign_id = messages.campaign_id
where messages.campaign_id is not null
    and journeys.campaign_id is null
