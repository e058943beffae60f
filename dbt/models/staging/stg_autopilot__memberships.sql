{% set of_lists, of_segments = autopilot.table('lists_contacts'), autopilot.table('smart_segments_contacts') %}

with titles as (
    {{ autopilot.titles() }}
),

memberships as (

    select
        'list' as kind,
        {{ of_lists.columns.list_id }} as group_id,
        {{ of_lists.columns.contact_id }} as contact_id
    from {{ of_lists.present }}

    union all

    select
        'segment' as kind,
        {{ of_segments.columns.segment_id }} as group_id,
        {{ of_segments.columns.contact_id }} as contact_id
    from {{ of_segments.present }}

)

select
    memberships.kind,
    memberships.group_id,
    titles.title,
    memberships.contact_id
from memberships
left join titles
    on titles.kind = memberships.kind
    and titles.group_id = memberships.group_id
