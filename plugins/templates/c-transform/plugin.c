/* Writes texts in upper case: the letters of ASCII. */

#include "aqueduct.h"
#include "transform_plugin.h"

typedef exports_aqueduct_connector_transform_error_t failure;

static bool failed(failure *error, const char *code, const char *message) {
    error->kind = AQUEDUCT_CONNECTOR_TYPES_ERROR_KIND_FATAL;
    transform_plugin_string_dup(&error->code, code);
    transform_plugin_string_dup(&error->message, message);
    return false;
}

/* No options: there is nothing to find wrong with them. */
void exports_aqueduct_connector_transform_validate(exports_aqueduct_connector_transform_config_t *config,
                                                   exports_aqueduct_connector_transform_list_issue_t *issues) {
    exports_aqueduct_connector_transform_config_free(config);
    issues->ptr = NULL;
    issues->len = 0;
}

bool exports_aqueduct_connector_transform_open(exports_aqueduct_connector_transform_config_t *config, failure *error) {
    (void)error;
    exports_aqueduct_connector_transform_config_free(config);
    return true;
}

bool exports_aqueduct_connector_transform_apply(exports_aqueduct_connector_transform_frame_t *batch,
                                                exports_aqueduct_connector_transform_applied_t *applied, failure *error) {
    aqueduct_reader in;
    aqueduct_writer out = {0};
    aqueduct_record record;
    if (!aqueduct_open(&in, batch->ptr, batch->len)) return failed(error, "frame", "this is no frame of version 1");
    while (aqueduct_next(&in, &record)) {
        uint32_t index = in.index - 1;
        if (!aqueduct_has_bytes(record.value)) {
            aqueduct_keep(&out, index, &record);
            continue;
        }
        /* In place: the frame that was given is ours. */
        uint8_t *text = (uint8_t *)record.value.at;
        for (uint32_t at = 0; at < record.value.len; at++)
            if (text[at] >= 'a' && text[at] <= 'z') text[at] -= 'a' - 'A';
        aqueduct_write_value(&out, index, &record, record.value);
    }
    if (!aqueduct_is_whole(&in)) return failed(error, "frame", "the frame is cut short");
    applied->batch.ptr = aqueduct_finish(&out, &applied->batch.len);
    applied->rejected.ptr = NULL;
    applied->rejected.len = 0;
    exports_aqueduct_connector_transform_frame_free(batch);
    return true;
}
