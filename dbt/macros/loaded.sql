{#- What the tap has loaded, looked up in the warehouse when dbt runs. -#}

{% macro events() %}
    {#- The events of the email tables; each has a table email_<event>. -#}
    {% do return([
        'delivered', 'opened', 'clicked', 'bounced', 'marked_as_spam', 'unsubscribed', 'replied'
    ]) %}
{% endmacro %}


{% macro is_loaded(table) %}
    {#- Whether a table exists. -#}
    {% do return(load_relation(source('autopilot', table)) is not none) %}
{% endmacro %}


{% macro say_if_nothing_is_loaded() %}
    {#- A wrong schema would otherwise look like an empty account. -#}
    {% if execute %}
        {% set known = graph.sources.values() | selectattr('package_name', 'equalto', 'autopilot') | list %}
        {% set found = [] %}
        {% for source in known if autopilot.is_loaded(source.name) %}
            {% do found.append(source.name) %}
        {% endfor %}
        {% if not found %}
            {% do log('There are no tables of tap-autopilot in ' ~ known[0].database ~ '.' ~ known[0].schema
                ~ '. Set the variable autopilot_schema to the schema that the target loads into.', info=true) %}
        {% endif %}
    {% endif %}
{% endmacro %}


{% macro engagement_is_known() %}
    {% do return(autopilot.is_loaded('contacts')
        and (autopilot.is_loaded('email_opened') or autopilot.is_loaded('email_clicked'))) %}
{% endmacro %}


{% macro reachability_is_known() %}
    {% set types = autopilot.table('contacts').types %}
    {% do return('unsubscribed' in types and 'mail_hardbounced' in types) %}
{% endmacro %}


{% macro table(name) %}
    {#-
        A table of the tap, as SQL to select from, whatever has been loaded of it:

        - `present`: the rows that are not marked as deleted; none if there is no such table.
        - `columns`: the expression of each column in models/sources.yml, in its declared type;
          null if it was not loaded. Times are in UTC, without a zone.
        - `types`: the warehouse's type of each column that was loaded.
        - `more`: the other columns, such as those of custom fields, ready to select.
    -#}
    {% set relation = load_relation(source('autopilot', name)) %}
    {% set found = {} %}
    {% if relation is not none %}
        {% for column in adapter.get_columns_in_relation(relation) %}
            {% do found.update({column.name | lower: column}) %}
        {% endfor %}
    {% endif %}

    {% set columns, types = {}, {} %}
    {% set declared = graph.sources['source.autopilot.autopilot.' ~ name].columns if execute else {} %}
    {% for column in declared.values() %}
        {% set type = autopilot.warehouse_type(column.data_type) %}
        {% if column.name in found %}
            {% set quoted, type_found = adapter.quote(found[column.name].name), found[column.name].data_type %}
            {% do types.update({column.name: type_found}) %}
            {% if column.data_type == 'timestamp' %}
                {% do columns.update({column.name: autopilot.as_utc(quoted, type_found)}) %}
            {% elif column.data_type == 'json'
                or (column.data_type == 'string' and found[column.name].is_string()) %}
                {#- A text is not cast, because Redshift would cut it to 256 bytes. -#}
                {% do columns.update({column.name: quoted}) %}
            {% else %}
                {% do columns.update({column.name: 'cast(' ~ quoted ~ ' as ' ~ type ~ ')'}) %}
            {% endif %}
        {% else %}
            {% do columns.update({column.name: 'cast(null as ' ~ type ~ ')'}) %}
        {% endif %}
    {% endfor %}

    {#- A target may mark rows itself, and the tap's marks may have another name. -#}
    {% set marks = ['_sdc_deleted_at', var('autopilot_deleted_at_column', '_sdc_deleted_at') | lower] | unique | list %}
    {% set unmarked = [] %}
    {% for mark in marks if mark in found %}
        {% do unmarked.append(adapter.quote(found[mark].name) ~ ' is null') %}
    {% endfor %}

    {% set more = [] %}
    {% for column in found.values() %}
        {#- Columns that begin with an underscore are the target's own. -#}
        {% if column.name | lower not in declared and not column.name.startswith('_')
            and column.name | lower not in marks %}
            {% do more.append(adapter.quote(column.name)) %}
        {% endif %}
    {% endfor %}

    {% if relation is none %}
        {% set present = '(select 1 as nothing limit 0) as ' ~ name %}
    {% elif unmarked %}
        {% set present = '(select * from ' ~ relation ~ ' where ' ~ unmarked | join(' and ') ~ ') as ' ~ name %}
    {% else %}
        {% set present = relation ~ ' as ' ~ name %}
    {% endif %}
    {% do return({'present': present, 'columns': columns, 'types': types, 'more': more}) %}
{% endmacro %}


{% macro warehouse_type(data_type) %}
    {#- A type of models/sources.yml in the warehouse's words; absent JSON is a null text. -#}
    {% if data_type == 'timestamp' %}
        {% do return(dbt.type_timestamp()) %}
    {% elif data_type == 'boolean' %}
        {% do return(dbt.type_boolean()) %}
    {% endif %}
    {% do return(dbt.type_string()) %}
{% endmacro %}
