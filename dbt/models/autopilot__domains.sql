with events as (

    select
        {{ dbt.split_part('lower(trim(email))', "'@'", -1) }} as domain,
        coalesce(person, id) as person,
        coalesce(email_id, id) as message,
        event
    from {{ ref('stg_autopilot__email_events') }}
    where email like '%@%'

),

deliveries as (

    select
        domain,
        {%- for event in ['delivered', 'bounced', 'marked_as_spam'] %}
        {%- if autopilot.is_loaded('email_' ~ event) %}
        max(case when event = '{{ event }}' then 1 else 0 end) as {{ event }}
        {%- else %}
        cast(null as {{ dbt.type_int() }}) as {{ event }}
        {%- endif %}
        {{- ',' if not loop.last }}
        {%- endfor %}
    from events
    group by domain, person, message

)

select
    domain,
    {{ autopilot.total('delivered') }} as delivered,
    {{ autopilot.total('bounced') }} as bounced,
    {{ autopilot.total('marked_as_spam') }} as marked_as_spam,
    {{ autopilot.bounce_rate() }} as bounce_rate,
    {{ autopilot.complaint_rate() }} as complaint_rate
from deliveries
group by domain
