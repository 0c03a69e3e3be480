/* A closed-loop load: so many requests in flight, until so many replies have come.
 *
 *     load URL QUEUE TOTAL WINDOW KEYS SALT HEADERS CACHE_CONTROL
 *
 * Bodies suit the example model `price`. There are KEYS of them, drawn at random; KEYS 0 makes all of them different. SALT tells the
 * bodies of one run from another's. HEADERS 1 sends a deadline and a trace context with each request, as the client
 * library does. CACHE_CONTROL is sent unless it is "-".
 *
 * It prints one line of JSON. A reply is wrong when its type is `error`, when nobody asked for it, or when it differs from
 * an earlier one of the same key. Exit status: 0 all well, 1 no connection, 2 a reply was wrong or missing, 64 wrong arguments.
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

enum { CHANNEL = 1, PATIENCE_S = 20, MAX_BODY = 512 };

struct run {
    amqp_connection_state_t connection;
    amqp_bytes_t queue, reply_to;
    amqp_table_t headers;
    const char *salt;
    long total, window, keys;
    long sent, received, wrong;
    long *key_of;
    double *sent_at_s, *took_s;
    char **first; /* the first reply of each key */
};

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static amqp_table_entry_t text(const char *name, const char *value) {
    amqp_table_entry_t entry = {.key = amqp_cstring_bytes(name),
                                .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value)}};
    return entry;
}

static void send_one(struct run *run) {
    char body[MAX_BODY], identifier[24];
    long number = run->sent++, key = run->keys ? rand() % run->keys : number;
    run->key_of[number] = key;
    int size = snprintf(body, sizeof body,
                        "{\"pair\":\"%s%ld/EUR\",\"horizon_minutes\":5,\"returns\":[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8]}",
                        run->salt, key);
    snprintf(identifier, sizeof identifier, "%ld", number);
    amqp_basic_properties_t properties = {0};
    properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG;
    properties.content_type = amqp_cstring_bytes("application/json");
    properties.correlation_id = amqp_cstring_bytes(identifier);
    properties.reply_to = run->reply_to;
    if (run->headers.num_entries) {
        properties._flags |= AMQP_BASIC_HEADERS_FLAG;
        properties.headers = run->headers;
    }
    amqp_bytes_t content = {.len = size, .bytes = body};
    run->sent_at_s[number] = now_s();
    amqp_basic_publish(run->connection, CHANNEL, amqp_empty_bytes, run->queue, 0, 0, &properties, content);
}

static int same(amqp_bytes_t bytes, const char *wanted) {
    return bytes.len == strlen(wanted) && memcmp(bytes.bytes, wanted, bytes.len) == 0;
}

static int is_right(struct run *run, const amqp_message_t *reply) {
    char identifier[24];
    snprintf(identifier, sizeof identifier, "%.*s", (int)reply->properties.correlation_id.len,
             (char *)reply->properties.correlation_id.bytes);
    long number = atol(identifier);
    if (number < 0 || number >= run->sent || run->sent_at_s[number] == 0) return 0;
    run->took_s[run->received - 1] = now_s() - run->sent_at_s[number];
    run->sent_at_s[number] = 0; /* a second reply to it is wrong */
    if (same(reply->properties.type, "error")) return 0;
    char **first = &run->first[run->key_of[number]];
    if (*first) return same(reply->body, *first);
    *first = strndup(reply->body.bytes, reply->body.len);
    return 1;
}

static int receive_one(struct run *run) {
    amqp_envelope_t delivery;
    struct timeval patience = {.tv_sec = PATIENCE_S};
    amqp_maybe_release_buffers(run->connection);
    if (amqp_consume_message(run->connection, &delivery, &patience, 0).reply_type != AMQP_RESPONSE_NORMAL) return 0;
    run->received++;
    run->wrong += !is_right(run, &delivery.message);
    amqp_destroy_envelope(&delivery);
    return 1;
}

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static int connect_to(struct run *run, char *url) {
    struct amqp_connection_info where;
    amqp_default_connection_info(&where);
    if (amqp_parse_url(url, &where) != AMQP_STATUS_OK) return 0;
    run->connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(run->connection);
    if (amqp_socket_open(socket, where.host, where.port) != AMQP_STATUS_OK) return 0;
    const char *vhost = *where.vhost ? where.vhost : "/"; /* a URL that ends in a slash means the default one */
    amqp_login(run->connection, vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, where.user, where.password);
    amqp_channel_open(run->connection, CHANNEL);
    if (amqp_get_rpc_reply(run->connection).reply_type != AMQP_RESPONSE_NORMAL) return 0;
    amqp_queue_declare_ok_t *declared =
        amqp_queue_declare(run->connection, CHANNEL, amqp_empty_bytes, 0, 0, 1, 1, amqp_empty_table);
    if (!declared) return 0;
    run->reply_to = amqp_bytes_malloc_dup(declared->queue);
    amqp_basic_consume(run->connection, CHANNEL, run->reply_to, amqp_empty_bytes, 0, 1, 1, amqp_empty_table);
    return amqp_get_rpc_reply(run->connection).reply_type == AMQP_RESPONSE_NORMAL;
}

int main(int count, char **words) {
    if (count != 9) {
        fprintf(stderr, "usage: load URL QUEUE TOTAL WINDOW KEYS SALT HEADERS CACHE_CONTROL\n");
        return 64;
    }
    struct run run = {.queue = amqp_cstring_bytes(words[2]), .total = atol(words[3]), .window = atol(words[4]),
                      .keys = atol(words[5]), .salt = words[6]};
    if (!connect_to(&run, words[1])) return 1;
    char deadline[24];
    snprintf(deadline, sizeof deadline, "%lld", (long long)(time(NULL) + 300) * 1000);
    amqp_table_entry_t headers[3];
    if (atoi(words[7])) {
        headers[run.headers.num_entries++] = text("deadline", deadline);
        headers[run.headers.num_entries++] =
            text("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    }
    if (strcmp(words[8], "-") != 0) headers[run.headers.num_entries++] = text("cache-control", words[8]);
    run.headers.entries = headers;
    run.key_of = calloc(run.total, sizeof *run.key_of);
    run.sent_at_s = calloc(run.total, sizeof *run.sent_at_s);
    run.took_s = calloc(run.total, sizeof *run.took_s);
    run.first = calloc(run.keys ? run.keys : run.total, sizeof *run.first);
    srand(7);
    double began_s = now_s();
    do {
        while (run.sent < run.total && run.sent - run.received < run.window) send_one(&run);
    } while (receive_one(&run) && run.received < run.total);
    double seconds = now_s() - began_s;
    long got = run.received;
    qsort(run.took_s, got, sizeof *run.took_s, ascending);
    printf("{\"total\": %ld, \"missing\": %ld, \"wrong\": %ld, \"per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"max_ms\": %.3f}\n",
           run.total, run.total - got, run.wrong, got / seconds, got ? run.took_s[got / 2] * 1e3 : 0,
           got ? run.took_s[got * 99 / 100] * 1e3 : 0, got ? run.took_s[got - 1] * 1e3 : 0);
    return run.wrong || got < run.total ? 2 : 0;
}
