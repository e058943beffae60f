{% macro titles() %}
    {#- Lists and smart segments under the same column names. -#}
    {%- set lists, segments = autopilot.table('lists'), autopilot.table('smart_segments') %}
    select
        'list' as kind,
        {{ lists.columns.list_id }} as group_id,
        {{ lists.columns.title }} as title
    from {{ lists.present }}

    union all

    select
        'segment' as kind,
        {{ segments.columns.segment_id }} as group_id,
        {{ segments.columns.title }} as title
    from {{ segments.present }}
{% endmacro %}
