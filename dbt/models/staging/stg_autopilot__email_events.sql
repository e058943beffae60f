with recorded as (

    {%- for event in autopilot.events() %}
    {%- set emails = autopilot.table('email_' ~ event) %}

    select
        {{ emails.columns.id }} as id,
        '{{ event }}' as event,
        {{ emails.columns.timestamp }} as occurred_at,
        {{ emails.columns.received_at }} as received_at,
        {{ emails.columns.context_traits_contact_id }} as contact_id,
        {{ emails.columns.context_traits_email }} as stated_email,
        {{ emails.columns.anonymous_id }} as anonymous_id,
        {{ emails.columns.email_id }} as email_id,
        {{ emails.columns.email_name }} as email_name,
        {{ emails.columns.email_subject }} as email_subject,
        {{ emails.columns.campaign_id }} as campaign_id,
        {{ emails.columns.campaign_name }} as campaign_name,
        {{ emails.columns.transactional }} as transactional,
        {{ emails.columns.link_id }} as link_id,
        {{ emails.columns.link_url }} as link_url
    from {{ emails.present }}
    {%- if not loop.last %}

    union all
    {%- endif %}
    {%- endfor %}

),

addressed as (

    select
        recorded.*,
        case
            when trim(stated_email) <> '' then stated_email
            when anonymous_id like '%@%' then anonymous_id
        end as email,
        {{ autopilot.message_key('email_id') }} as message_key
    from recorded

),

-- Some pushes name no contact, only an email address. Joining them to contacts by id would drop them.
contacts_by_email as (

    select
        address,
        min(contact_id) as contact_id
    from (
        select
            lower(trim(email)) as address,
            contact_id
        from {{ ref('stg_autopilot__contacts') }}
    ) as contacts
    where address <> ''
    group by address

)

select
    addressed.id,
    addressed.event,
    addressed.occurred_at,
    coalesce(
        nullif(addressed.contact_id, ''),
        contacts_by_email.contact_id,
        lower(trim(addressed.email))
    ) as person,
    addressed.email,

    -- Contacts and pushes give the same message different ids. Without one id for both, a push and
    -- an event that the collector missed would count as two messages.
    coalesce(
        min(case when addressed.received_at is not null then addressed.email_id end)
            over (partition by addressed.message_key),
        min(addressed.email_id) over (partition by addressed.message_key)
    ) as email_id,

    addressed.email_name,
    addressed.email_subject,
    addressed.campaign_id,
    addressed.campaign_name,
    addressed.transactional,
    addressed.link_id,
    addressed.link_url
from addressed
left join contacts_by_email
    on contacts_by_email.address = lower(trim(addressed.email))
