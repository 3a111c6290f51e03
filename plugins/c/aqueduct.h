/* What an Aqueduct plugin in C is written with: a reader and a writer of frames (FRAME.md in Aqueduct's plugins/wit says byte by byte what is in
 * one), and texts for the bindings in bindings/. `aqueduct plugin new --lang c` copies this file beside plugin.c.
 *
 * Numbers are little-endian in a frame and on WebAssembly, so they are copied as they are. Memory that runs out ends the instance, which is replaced. */

#ifndef AQUEDUCT_H
#define AQUEDUCT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AQUEDUCT_NULL UINT32_C(0xFFFFFFFF)
#define AQUEDUCT_SAME UINT32_C(0xFFFFFFFE)
/* The timestamp of a record that has none. */
#define AQUEDUCT_NO_TIME INT64_MIN

/* A key, a value or the bytes of the headers. `len` may be AQUEDUCT_NULL, and in what a transform returns AQUEDUCT_SAME: as in the record that it
 * came of, which costs no copy. Then `at` means nothing. */
typedef struct {
    const uint8_t *at;
    uint32_t len;
} aqueduct_part;

static const aqueduct_part aqueduct_null = {NULL, AQUEDUCT_NULL};
static const aqueduct_part aqueduct_same = {NULL, AQUEDUCT_SAME};

static inline aqueduct_part aqueduct_bytes(const void *at, size_t len) {
    return (aqueduct_part){(const uint8_t *)at, (uint32_t)len};
}

static inline bool aqueduct_has_bytes(aqueduct_part part) {
    return part.len < AQUEDUCT_SAME;
}

typedef struct {
    /* Milliseconds since the epoch, or AQUEDUCT_NO_TIME. */
    int64_t timestamp;
    /* In what is read: the offset in the log, or -1. In what a transform returns: the index of the record that this one came of. */
    int64_t offset;
    /* An index into the frame's topics, or AQUEDUCT_SAME. */
    uint32_t topic;
    aqueduct_part key, value, headers;
} aqueduct_record;

/* Reading. */

typedef struct {
    const uint8_t *at, *end;
    uint32_t topics, records;
    /* Of the next record. */
    uint32_t index;
    const uint8_t *names;
} aqueduct_reader;

static inline bool aqueduct_take(const uint8_t **at, const uint8_t *end, void *into, size_t len) {
    if ((size_t)(end - *at) < len) return false;
    memcpy(into, *at, len);
    *at += len;
    return true;
}

/* False: these bytes are no frame of version 1. */
static inline bool aqueduct_open(aqueduct_reader *reader, const uint8_t *frame, size_t len) {
    struct {
        uint8_t magic[4];
        uint16_t version, flags;
        uint32_t topics, records;
    } head;
    reader->at = frame;
    reader->end = frame + len;
    reader->index = 0;
    if (!aqueduct_take(&reader->at, reader->end, &head, sizeof head)) return false;
    if (memcmp(head.magic, "AQB1", 4) != 0 || head.version != 1 || head.flags != 0) return false;
    reader->topics = head.topics;
    reader->records = head.records;
    reader->names = reader->at;
    for (uint32_t topic = 0; topic < head.topics; topic++) {
        int32_t partition;
        uint16_t name;
        if (!aqueduct_take(&reader->at, reader->end, &partition, 4) || !aqueduct_take(&reader->at, reader->end, &name, 2)) return false;
        if (reader->end - reader->at < name) return false;
        reader->at += name;
    }
    return true;
}

static inline bool aqueduct_read_part(aqueduct_reader *reader, aqueduct_part *part, uint32_t len) {
    *part = (aqueduct_part){reader->at, len};
    if (!aqueduct_has_bytes(*part)) return true;
    if ((size_t)(reader->end - reader->at) < len) return false;
    reader->at += len;
    return true;
}

/* The next record, whose index is then `reader->index - 1`. False: there is none, or the frame is cut short, which `aqueduct_is_whole` tells apart. */
static inline bool aqueduct_next(aqueduct_reader *reader, aqueduct_record *record) {
    uint32_t lengths[4];
    if (reader->index == reader->records) return false;
    if (!aqueduct_take(&reader->at, reader->end, &record->timestamp, 8) || !aqueduct_take(&reader->at, reader->end, &record->offset, 8) ||
        !aqueduct_take(&reader->at, reader->end, lengths, sizeof lengths))
        return false;
    record->topic = lengths[0];
    if (!aqueduct_read_part(reader, &record->key, lengths[1]) || !aqueduct_read_part(reader, &record->value, lengths[2]) ||
        !aqueduct_read_part(reader, &record->headers, lengths[3]))
        return false;
    reader->index++;
    return true;
}

static inline bool aqueduct_is_whole(const aqueduct_reader *reader) {
    return reader->index == reader->records && reader->at == reader->end;
}

/* The name of a topic (without an end mark: `len` bytes) and its partition, or -1. NULL: there is no such topic. */
static inline const uint8_t *aqueduct_topic_name(const aqueduct_reader *reader, uint32_t topic, uint16_t *len, int32_t *partition) {
    const uint8_t *at = reader->names;
    if (topic >= reader->topics) return NULL;
    for (;; topic--) {
        memcpy(partition, at, 4);
        memcpy(len, at + 4, 2);
        if (topic == 0) return at + 6;
        at += 6 + *len;
    }
}

/* Writing. Begin with `aqueduct_writer out = {0};`. */

typedef struct {
    uint8_t *at;
    size_t len, room;
} aqueduct_buffer;

typedef struct {
    aqueduct_buffer topics, records;
    uint32_t topic_count, record_count;
} aqueduct_writer;

static inline void aqueduct_put(aqueduct_buffer *buffer, const void *bytes, size_t len) {
    if (len == 0) return;
    if (buffer->room - buffer->len < len) {
        buffer->room = (buffer->len + len) * 2;
        buffer->at = (uint8_t *)realloc(buffer->at, buffer->room);
        if (buffer->at == NULL) abort();
    }
    memcpy(buffer->at + buffer->len, bytes, len);
    buffer->len += len;
}

/* The index of a topic that was not there before; each name is to be added once for each partition. -1: the log decides by the key. */
static inline uint32_t aqueduct_add_topic(aqueduct_writer *writer, const char *name, int32_t partition) {
    uint16_t len = (uint16_t)strlen(name);
    aqueduct_put(&writer->topics, &partition, 4);
    aqueduct_put(&writer->topics, &len, 2);
    aqueduct_put(&writer->topics, name, len);
    return writer->topic_count++;
}

static inline void aqueduct_write(aqueduct_writer *writer, const aqueduct_record *record) {
    const uint32_t lengths[4] = {record->topic, record->key.len, record->value.len, record->headers.len};
    const aqueduct_part parts[3] = {record->key, record->value, record->headers};
    aqueduct_put(&writer->records, &record->timestamp, 8);
    aqueduct_put(&writer->records, &record->offset, 8);
    aqueduct_put(&writer->records, lengths, sizeof lengths);
    for (int part = 0; part < 3; part++)
        if (aqueduct_has_bytes(parts[part])) aqueduct_put(&writer->records, parts[part].at, parts[part].len);
    writer->record_count++;
}

/* What a transform returns for the record `index` of its frame: another value, the rest as it was. */
static inline void aqueduct_write_value(aqueduct_writer *writer, uint32_t index, const aqueduct_record *was, aqueduct_part value) {
    aqueduct_record record = {was->timestamp, index, AQUEDUCT_SAME, aqueduct_same, value, {NULL, AQUEDUCT_SAME}};
    aqueduct_write(writer, &record);
}

/* What a transform returns for a record that stays as it is; one for which nothing is written is dropped. */
static inline void aqueduct_keep(aqueduct_writer *writer, uint32_t index, const aqueduct_record *was) {
    aqueduct_write_value(writer, index, was, aqueduct_same);
}

/* The frame, in memory of malloc that the bindings free; the writer is empty again. */
static inline uint8_t *aqueduct_finish(aqueduct_writer *writer, size_t *len) {
    const uint16_t version[2] = {1, 0};
    aqueduct_buffer frame = {NULL, 0, 0};
    frame.room = 16 + writer->topics.len + writer->records.len;
    frame.at = (uint8_t *)malloc(frame.room);
    if (frame.at == NULL) abort();
    aqueduct_put(&frame, "AQB1", 4);
    aqueduct_put(&frame, version, 4);
    aqueduct_put(&frame, &writer->topic_count, 4);
    aqueduct_put(&frame, &writer->record_count, 4);
    aqueduct_put(&frame, writer->topics.at, writer->topics.len);
    aqueduct_put(&frame, writer->records.at, writer->records.len);
    free(writer->topics.at);
    free(writer->records.at);
    *writer = (aqueduct_writer){{0}, {0}, 0, 0};
    *len = frame.len;
    return frame.at;
}

#endif
