{% set messages = autopilot.table('email_messages') %}
{% set description = ['email_name', 'email_subject', 'campaign_id', 'campaign_name'] %}

with deliveries as (
    {{ autopilot.deliveries() }}
),

counted as (

    select
        email_id,
        min(first_delivered_at) as first_delivered_at,
        {{- autopilot.counts() }},
        {%- for event, number in [('opened', 'opens'), ('clicked', 'clicks')] %}
        {{ autopilot.total(number if autopilot.is_loaded('email_' ~ event) else event) }} as {{ number }},
        {%- endfor %}
        {{ autopilot.rates() }}
    from deliveries
    where email_id is not null
    group by email_id

),

described as (

    select
        {{ autopilot.message_key(messages.columns.email_id) }} as message_key,
        {%- for column in description %}
        {{ messages.columns[column] }} as {{ column }},
        {%- endfor %}
        row_number() over (
            partition by {{ autopilot.message_key(messages.columns.email_id) }}
            order by {{ messages.columns.last_seen_at }} desc nulls last, {{ messages.columns.email_id }}
        ) as recency
    from {{ messages.present }}

),

described_by_events as (

    select
        email_id,
        {%- for column in description %}
        {{ column }},
        {%- endfor %}
        row_number() over (
            partition by email_id
            order by occurred_at desc nulls last, id
        ) as recency
    from {{ ref('stg_autopilot__email_events') }}
    where coalesce({{ description | join(', ') }}) is not null

)

select
    counted.email_id,
    {%- for column in description %}
    coalesce(described.{{ column }}, described_by_events.{{ column }}) as {{ column }},
    {%- endfor %}
    counted.first_delivered_at,
    {%- for event in autopilot.events() %}
    counted.{{ event }},
    {%- endfor %}
    counted.opens,
    counted.clicks,
    counted.open_rate,
    counted.click_rate,
    counted.click_to_open_rate,
    counted.bounce_rate,
    counted.complaint_rate
from counted
left join described
    on described.message_key = {{ autopilot.message_key('counted.email_id') }}
    and described.recency = 1
left join described_by_events
    on described_by_events.email_id = counted.email_id
    and described_by_events.recency = 1
