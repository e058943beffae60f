{#- What warehouses spell differently, and dbt has no macro for. -#}

{% macro as_utc(time, type) %}
    {#- A column's time in UTC, without a zone. The tap writes times in UTC. -#}
    {% do return(adapter.dispatch('as_utc', 'autopilot')(time, type | lower)) %}
{% endmacro %}

{% macro default__as_utc(time, type) %}
    {#- A cast alone would turn a zoned time into the session's zone. -#}
    {% if 'with time zone' in type or 'timestamptz' in type %}
        {% do return('(' ~ time ~ " at time zone 'UTC')") %}
    {% endif %}
    {% do return('cast(' ~ time ~ ' as ' ~ dbt.type_timestamp() ~ ')') %}
{% endmacro %}

{% macro snowflake__as_utc(time, type) %}
    {% if 'timestamp_tz' in type or 'timestamp_ltz' in type %}
        {% do return("cast(convert_timezone('UTC', " ~ time ~ ') as timestamp_ntz)') %}
    {% endif %}
    {% do return('cast(' ~ time ~ ' as timestamp_ntz)') %}
{% endmacro %}

{% macro bigquery__as_utc(time, type) %}
    {% do return('cast(' ~ time ~ ' as timestamp)') %}
{% endmacro %}


{% macro days_ago(days) %}
    {#- The time that many days ago, in the form of as_utc. -#}
    {% set now = adapter.dispatch('utc_now', 'autopilot')() %}
    {% do return('cast(' ~ dbt.dateadd('day', -days, now) ~ ' as ' ~ dbt.type_timestamp() ~ ')') %}
{% endmacro %}

{% macro default__utc_now() %}
    {% do return("(current_timestamp at time zone 'UTC')") %}
{% endmacro %}

{% macro snowflake__utc_now() %}
    {% do return('sysdate()') %}
{% endmacro %}

{% macro redshift__utc_now() %}
    {% do return('getdate()') %}
{% endmacro %}

{% macro bigquery__utc_now() %}
    {% do return('current_timestamp()') %}
{% endmacro %}


{% macro matches(text, pattern) %}
    {#- Whether a whole text matches a regular expression. -#}
    {% do return(adapter.dispatch('matches', 'autopilot')(text, '^' ~ pattern ~ '$')) %}
{% endmacro %}

{% macro default__matches(text, pattern) %}
    {% do return(text ~ " ~ '" ~ pattern ~ "'") %}
{% endmacro %}

{% macro duckdb__matches(text, pattern) %}
    {% do return('regexp_matches(' ~ text ~ ", '" ~ pattern ~ "')") %}
{% endmacro %}

{% macro snowflake__matches(text, pattern) %}
    {% do return('regexp_like(' ~ text ~ ", '" ~ pattern ~ "')") %}
{% endmacro %}

{% macro bigquery__matches(text, pattern) %}
    {% do return('regexp_contains(' ~ text ~ ", r'" ~ pattern ~ "')") %}
{% endmacro %}


{% macro is_filled(array, type) %}
    {#- Whether an array has an element, however the target has stored it: as JSON, array or text. -#}
    {% set text = adapter.dispatch('array_as_text', 'autopilot')(array, type | lower) %}
    {% do return('(' ~ array ~ ' is not null and ' ~ text ~ " not in ('[]', '{}', 'null', '', '\"[]\"'))") %}
{% endmacro %}

{% macro default__array_as_text(array, type) %}
    {% do return('cast(' ~ array ~ ' as ' ~ dbt.type_string() ~ ')') %}
{% endmacro %}

{% macro redshift__array_as_text(array, type) %}
    {% if type == 'super' %}
        {% do return('json_serialize(' ~ array ~ ')') %}
    {% endif %}
    {% do return(autopilot.default__array_as_text(array, type)) %}
{% endmacro %}

{% macro bigquery__array_as_text(array, type) %}
    {% do return('to_json_string(' ~ array ~ ')') %}
{% endmacro %}


{% macro type_double() %}
    {#- dbt's type_float has only 24 bits in DuckDB. -#}
    {% do return(adapter.dispatch('type_double', 'autopilot')()) %}
{% endmacro %}

{% macro default__type_double() %}
    {% do return('double precision') %}
{% endmacro %}

{% macro bigquery__type_double() %}
    {% do return('float64') %}
{% endmacro %}
