{# The columns of traits, as the warehouse lists them: found when the models run. #}
{% macro trait_columns() %}
    {% set found %}
        SELECT column_name
        FROM information_schema.columns
        WHERE lower(table_schema) = lower('{{ var("sync_schema") }}')
            AND lower(table_name) = 'profile_traits_updates'
            AND lower(column_name) NOT IN (
                'segment_id', 'seq', 'uuid_ts', 'timestamp', 'received_at', 'id', 'user_id',
                'anonymous_id', 'canonical_segment_id', 'merged_to', 'sent_at'
            )
            AND lower(column_name) NOT LIKE 'triggering_%'
            AND lower(column_name) NOT LIKE 'context_%'
            AND left(column_name, 1) <> '_'
        ORDER BY column_name
    {% endset %}
    {% if execute %}
        {{ return(run_query(found).columns[0].values()) }}
    {% endif %}
    {{ return([]) }}
{% endmacro %}
