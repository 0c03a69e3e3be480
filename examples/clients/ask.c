/* Ask for a prediction with librabbitmq: ask price '{"pair": "ETH/EUR"}'. AMQP_URL says where.
 *
 *     cc ask.c -lrabbitmq -o ask
 *
 * It prints the reply's cache-status and its body. Exit status: 0 a result, 1 an error or no answer, 64 wrong usage.
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { CHANNEL = 1, TIMEOUT_S = 10, WRONG_USAGE = 64 };

static void need(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "no answer: %s\n", what);
        exit(1);
    }
}

static int is_good(amqp_rpc_reply_t reply) { return reply.reply_type == AMQP_RESPONSE_NORMAL; }

static amqp_connection_state_t connected(const char *url) {
    char copy[512];
    struct amqp_connection_info where;
    snprintf(copy, sizeof copy, "%s", url);
    amqp_default_connection_info(&where);
    need(amqp_parse_url(copy, &where) == AMQP_STATUS_OK, "AMQP_URL is no URL");
    if (!*where.vhost) where.vhost = "/";  // the URL ended with a slash
    amqp_connection_state_t connection = amqp_new_connection();
    need(amqp_socket_open(amqp_tcp_socket_new(connection), where.host, where.port) == 0, "no broker there");
    need(is_good(amqp_login(connection, where.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, where.user, where.password)),
         "the broker refused the user");
    amqp_channel_open(connection, CHANNEL);
    need(is_good(amqp_get_rpc_reply(connection)), "no channel");
    return connection;
}

static int is(amqp_bytes_t bytes, const char *text) {
    return bytes.len == strlen(text) && memcmp(bytes.bytes, text, bytes.len) == 0;
}

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: ask MODEL JSON\n");
        return WRONG_USAGE;
    }
    const char *url = getenv("AMQP_URL");
    amqp_connection_state_t connection = connected(url ? url : "amqp://guest:guest@localhost/%2F");
    amqp_queue_declare_ok_t *replies =
        amqp_queue_declare(connection, CHANNEL, amqp_empty_bytes, 0, 0, 1, 1, amqp_empty_table);
    need(replies != NULL, "no reply queue");
    amqp_bytes_t queue = amqp_bytes_malloc_dup(replies->queue);
    amqp_basic_consume(connection, CHANNEL, queue, amqp_empty_bytes, 0, 1, 1, amqp_empty_table);

    char key[256], identifier[64], expiration[16];
    snprintf(key, sizeof key, "predictions.%s", words[1]);
    snprintf(identifier, sizeof identifier, "%ld-%ld", (long)getpid(), (long)time(NULL));
    snprintf(expiration, sizeof expiration, "%d", TIMEOUT_S * 1000);
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG |
                  AMQP_BASIC_EXPIRATION_FLAG,
        .content_type = amqp_cstring_bytes("application/json"),
        .correlation_id = amqp_cstring_bytes(identifier),
        .reply_to = queue,
        .expiration = amqp_cstring_bytes(expiration),
    };
    need(amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, amqp_cstring_bytes(key), 1, 0, &properties,
                            amqp_cstring_bytes(words[2])) == 0,
         "not sent");

    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    for (;;) {
        amqp_envelope_t envelope;
        amqp_rpc_reply_t got = amqp_consume_message(connection, &envelope, &timeout, 0);
        /* What is no delivery is the request, returned: nobody takes requests for this model. */
        need(got.reply_type != AMQP_RESPONSE_LIBRARY_EXCEPTION || got.library_error != AMQP_STATUS_UNEXPECTED_STATE,
             "no queue takes requests for this model");
        need(is_good(got), "it took too long");
        if (is(envelope.message.properties.correlation_id, identifier)) {
            amqp_table_t headers = envelope.message.properties.headers;
            for (int i = 0; i < headers.num_entries; i++)
                if (is(headers.entries[i].key, "cache-status"))
                    fprintf(stderr, "cache-status: %.*s\n", (int)headers.entries[i].value.value.bytes.len,
                            (char *)headers.entries[i].value.value.bytes.bytes);
            printf("%.*s\n", (int)envelope.message.body.len, (char *)envelope.message.body.bytes);
            return !is(envelope.message.properties.type, "result");
        }
        amqp_destroy_envelope(&envelope);
    }
}
