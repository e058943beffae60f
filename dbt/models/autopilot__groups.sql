{% set changes = autopilot.table('membership_changes') %}
{% set tables = {'list': 'lists_contacts', 'segment': 'smart_segments_contacts'} %}
{% set bigint = dbt.type_bigint() %}

with titles as (
    {{ autopilot.titles() }}
),

memberships as (
    select * from {{ ref('stg_autopilot__memberships') }}
),

-- A list that has members counts even if the tables of titles were not loaded.
lists_and_segments as (

    select
        kind,
        group_id,
        max(title) as title
    from (
        select kind, group_id, title from titles
        union all
        select kind, group_id, title from memberships
    ) as every_title
    group by kind, group_id

),

members as (

    select
        memberships.kind,
        memberships.group_id,
        count(*) as members,
        sum(case when contacts.is_reachable then 1 else 0 end) as reachable,
        {%- for engagement in ['active', 'lapsed', 'never'] %}
        sum(case when contacts.engagement = '{{ engagement }}' then 1 else 0 end) as {{ engagement }}
        {{- ',' if not loop.last }}
        {%- endfor %}
    from memberships
    left join {{ ref('autopilot__contacts') }} as contacts
        on contacts.contact_id = memberships.contact_id
    group by memberships.kind, memberships.group_id

),

recent_changes as (

    select
        kind,
        group_id,
        sum(case when change = 'joined' then 1 else 0 end) as joined,
        sum(case when change = 'left' then 1 else 0 end) as departed
    from (
        select
            case when {{ changes.columns.list_id }} is null then 'segment' else 'list' end as kind,
            coalesce({{ changes.columns.list_id }}, {{ changes.columns.segment_id }}) as group_id,
            {{ changes.columns.change }} as change,
            {{ changes.columns.seen_at }} as seen_at
        from {{ changes.present }}
    ) as changes
    where seen_at >= {{ autopilot.days_ago(30) }}
    group by kind, group_id

)

select
    lists_and_segments.kind,
    lists_and_segments.group_id,
    lists_and_segments.title,
    {%- set known = {
        'members': true,
        'reachable': autopilot.reachability_is_known(),
        'active': autopilot.engagement_is_known(),
        'lapsed': autopilot.engagement_is_known(),
        'never': autopilot.engagement_is_known(),
    } %}
    {%- for number, is_known in known.items() %}
    case
        {%- for kind, table in tables.items() %}
        when lists_and_segments.kind = '{{ kind }}' then
            {{ 'cast(coalesce(members.' ~ number ~ ', 0) as ' ~ bigint ~ ')' if is_known and autopilot.is_loaded(table) else 'cast(null as ' ~ bigint ~ ')' }}
        {%- endfor %}
    end as {{ number }},
    {%- endfor %}
    {%- if autopilot.is_loaded('membership_changes') %}
    cast(coalesce(recent_changes.joined, 0) as {{ bigint }}) as joined_last_30_days,
    cast(coalesce(recent_changes.departed, 0) as {{ bigint }}) as left_last_30_days
    {%- else %}
    cast(null as {{ bigint }}) as joined_last_30_days,
    cast(null as {{ bigint }}) as left_last_30_days
    {%- endif %}
from lists_and_segments
left join members
    on members.kind = lists_and_segments.kind
    and members.group_id = lists_and_segments.group_id
left join recent_changes
    on recent_changes.kind = lists_and_segments.kind
    and recent_changes.group_id = lists_and_segments.group_id
