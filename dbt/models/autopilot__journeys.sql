with deliveries as (
    {{ autopilot.deliveries() }}
),

messages as (
    select * from {{ ref('autopilot__messages') }}
),

deliveries_of_journeys as (

    select
        deliveries.*,
        messages.campaign_id
    from deliveries
    inner join messages
        on messages.email_id = deliveries.email_id
    where messages.campaign_id is not null

),

counted as (

    select
        campaign_id,
        count(distinct email_id) as messages,
        {{- autopilot.counts() }},
        {{ autopilot.rates() }}
    from deliveries_of_journeys
    group by campaign_id

),

-- A journey that was renamed goes by the name in its latest message.
names as (

    select
        campaign_id,
        campaign_name,
        row_number() over (
            partition by campaign_id
            order by first_delivered_at desc nulls last, email_id
        ) as recency
    from messages
    where campaign_name is not null

)

select
    counted.campaign_id,
    names.campaign_name,
    counted.messages,
    {%- for event in autopilot.events() %}
    counted.{{ event }},
    {%- endfor %}
    counted.open_rate,
    counted.click_rate,
    counted.click_to_open_rate,
    counted.bounce_rate,
    counted.complaint_rate
from counted
left join names
    on names.campaign_id = counted.campaign_id
    and names.recency = 1
