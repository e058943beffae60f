{#- What the final models count: deliveries. -#}

{% macro message_key(email_id) -%}
    {#-
        What all ids of a message have in common. Autopilot writes the same message as
        batchdelivery_<uuid>_<13 digits>-<uuid> in its contacts and as
        batchcampaign_<13 DIGITS>-<UUID> in what it pushes.
    -#}
    {%- set run = '[0-9]{13}-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}' -%}
    case
        when {{ autopilot.matches(email_id, '(.*[^0-9])?' ~ run) }}
            then lower({{ dbt.right(email_id, 50) }})
        else {{ email_id }}
    end
{%- endmacro %}


{% macro deliveries() %}
    {#-
        One row for each delivery: one person and one message. An event without a person or without
        a message stands for itself.

        For each event, 1 if the delivery has it, else 0; null if its table was not loaded.
    -#}
    select
        min(person) as person,
        min(email_id) as email_id,
        {%- for event in autopilot.events() %}
        {%- set loaded = autopilot.is_loaded('email_' ~ event) %}
        {{ "max(case when event = '" ~ event ~ "' then 1 else 0 end)" if loaded else 'cast(null as ' ~ dbt.type_int() ~ ')' }} as {{ event }},
        min(case when event = '{{ event }}' then occurred_at end) as first_{{ event }}_at,
        {%- endfor %}
        max(case when event = 'opened' then occurred_at end) as last_opened_at,
        max(case when event = 'clicked' then occurred_at end) as last_clicked_at,
        sum(case when event = 'opened' then 1 else 0 end) as opens,
        sum(case when event = 'clicked' then 1 else 0 end) as clicks
    from (
        select
            *,
            coalesce(person, id) as recipient,
            coalesce(email_id, id) as message
        from {{ ref('stg_autopilot__email_events') }}
    ) as events
    group by recipient, message
{% endmacro %}


{% macro total(number) -%}
    cast(sum({{ number }}) as {{ dbt.type_bigint() }})
{%- endmacro %}


{% macro counts() -%}
    {%- for event in autopilot.events() %}
        {{ autopilot.total(event) }} as {{ event }}
        {%- if not loop.last %},{% endif %}
    {%- endfor %}
{%- endmacro %}


{% macro rate(part, whole) -%}
    cast(sum({{ part }}) as {{ autopilot.type_double() }}) / nullif(sum({{ whole }}), 0)
{%- endmacro %}


{% macro bounce_rate() -%}
    {#- A message may bounce after it was delivered, so the two are not simply added. -#}
    {{ autopilot.rate('bounced', 'delivered + bounced - delivered * bounced') }}
{%- endmacro %}


{% macro complaint_rate() -%}
    {{ autopilot.rate('delivered * marked_as_spam', 'delivered') }}
{%- endmacro %}


{% macro rates() -%}
    {#-
        Of deliveries known to be delivered: an open whose delivery nobody recorded cannot raise a
        rate above 1.
    -#}
        {{ autopilot.rate('delivered * opened', 'delivered') }} as open_rate,
        {{ autopilot.rate('delivered * clicked', 'delivered') }} as click_rate,
        {{ autopilot.rate('opened * clicked', 'opened') }} as click_to_open_rate,
        {{ autopilot.bounce_rate() }} as bounce_rate,
        {{ autopilot.complaint_rate() }} as complaint_rate
{%- endmacro %}
