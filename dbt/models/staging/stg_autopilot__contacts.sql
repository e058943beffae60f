{% do autopilot.say_if_nothing_is_loaded() %}
{% set contacts = autopilot.table('contacts') %}

select
    {%- for name, column in contacts.columns.items() %}
    {{ column }} as {{ name }}{{ ',' if contacts.more or not loop.last }}
    {%- endfor %}
    {%- for column in contacts.more %}
    {{ column }}{{ ',' if not loop.last }}
    {%- endfor %}
from {{ contacts.present }}
