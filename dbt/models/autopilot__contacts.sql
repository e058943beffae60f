{% set contacts = autopilot.table('contacts') %}

with contacts as (

    select
        contact_id,
        email,
        {%- if 'unsubscribed' in contacts.types %}
        coalesce(unsubscribed, false) as is_unsubscribed,
        {%- else %}
        cast(null as {{ dbt.type_boolean() }}) as is_unsubscribed,
        {%- endif %}
        {%- if 'mail_hardbounced' in contacts.types %}
        {{ autopilot.is_filled('mail_hardbounced', contacts.types.mail_hardbounced) }} as has_hard_bounced
        {%- else %}
        cast(null as {{ dbt.type_boolean() }}) as has_hard_bounced
        {%- endif %}
    from {{ ref('stg_autopilot__contacts') }}

),

deliveries as (
    {{ autopilot.deliveries() }}
),

mail as (

    select
        person as contact_id,
        {%- for event in ['delivered', 'opened', 'clicked', 'bounced'] %}
        {{ autopilot.total(event) }} as {{ event }},
        {%- endfor %}
        min(first_opened_at) as first_opened_at,
        max(last_opened_at) as last_opened_at,
        max(last_clicked_at) as last_clicked_at
    from deliveries
    group by person

),

memberships as (

    select
        contact_id,
        sum(case when kind = 'list' then 1 else 0 end) as list_count,
        sum(case when kind = 'segment' then 1 else 0 end) as segment_count
    from {{ ref('stg_autopilot__memberships') }}
    group by contact_id

)

select
    contacts.contact_id,
    contacts.email,
    {%- for event in ['delivered', 'opened', 'clicked', 'bounced'] %}
    {{ 'coalesce(mail.' ~ event ~ ', 0)' if autopilot.is_loaded('email_' ~ event) else 'mail.' ~ event }} as {{ event }},
    {%- endfor %}
    mail.first_opened_at,
    mail.last_opened_at,
    mail.last_clicked_at,
    {%- if autopilot.engagement_is_known() %}
    case
        when mail.last_opened_at >= {{ autopilot.days_ago(var('autopilot_active_days', 90)) }}
            or mail.last_clicked_at >= {{ autopilot.days_ago(var('autopilot_active_days', 90)) }}
            then 'active'
        when mail.opened > 0 or mail.clicked > 0 then 'lapsed'
        else 'never'
    end as engagement,
    {%- else %}
    cast(null as {{ dbt.type_string() }}) as engagement,
    {%- endif %}
    contacts.is_unsubscribed,
    contacts.has_hard_bounced,
    coalesce(trim(contacts.email), '') <> ''
        and not contacts.is_unsubscribed
        and not contacts.has_hard_bounced as is_reachable,
    {%- for kind, table in [('list', 'lists_contacts'), ('segment', 'smart_segments_contacts')] %}
    {%- if autopilot.is_loaded(table) %}
    cast(coalesce(memberships.{{ kind }}_count, 0) as {{ dbt.type_bigint() }}) as {{ kind }}_count
    {%- else %}
    cast(null as {{ dbt.type_bigint() }}) as {{ kind }}_count
    {%- endif %}
    {{- ',' if not loop.last }}
    {%- endfor %}
from contacts
left join mail
    on mail.contact_id = contacts.contact_id
left join memberships
    on memberships.contact_id = contacts.contact_id
