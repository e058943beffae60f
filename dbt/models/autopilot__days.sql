with deliveries as (
    {{ autopilot.deliveries() }}
),

-- A second open of the same message by the same person adds nothing, so only the first one counts.
firsts as (

    {%- for event in autopilot.events() %}

    select
        '{{ event }}' as event,
        cast(first_{{ event }}_at as date) as day
    from deliveries
    where first_{{ event }}_at is not null
    {%- if not loop.last %}

    union all
    {%- endif %}
    {%- endfor %}

)

select
    day,
    {%- for event in autopilot.events() %}
    {%- if autopilot.is_loaded('email_' ~ event) %}
    {{ autopilot.total("case when event = '" ~ event ~ "' then 1 else 0 end") }} as {{ event }}
    {%- else %}
    cast(null as {{ dbt.type_bigint() }}) as {{ event }}
    {%- endif %}
    {{- ',' if not loop.last }}
    {%- endfor %}
from firsts
group by day
