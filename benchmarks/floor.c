/* The floor: what a responder costs that does nothing. It answers every message of a queue with the message's own body.
 *
 *     floor URL QUEUE TYPE
 *
 * TYPE is quorum or classic. No cache, no model, no validation, no publisher confirms; one acknowledgement for each request.
 * Exit status: 1 no connection, 2 the connection was lost, 64 wrong arguments.
 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNEL = 1, PREFETCH = 200 };

static void consume(amqp_connection_state_t connection, const char *queue, const char *type) {
    amqp_table_entry_t kind = {.key = amqp_cstring_bytes("x-queue-type"),
                               .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(type)}};
    amqp_table_t arguments = {.num_entries = 1, .entries = &kind};
    amqp_queue_declare(connection, CHANNEL, amqp_cstring_bytes(queue), 0, 1, 0, 0, arguments);
    amqp_basic_qos(connection, CHANNEL, 0, PREFETCH, 0);
    amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
}

static void answer(amqp_connection_state_t connection, const amqp_message_t *request) {
    amqp_basic_properties_t reply = {0};
    reply._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG;
    reply.content_type = amqp_cstring_bytes("application/json");
    reply.type = amqp_cstring_bytes("result");
    reply.correlation_id = request->properties.correlation_id;
    amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, request->properties.reply_to, 0, 0, &reply, request->body);
}

int main(int count, char **words) {
    if (count != 4) {
        fprintf(stderr, "usage: floor URL QUEUE TYPE\n");
        return 64;
    }
    struct amqp_connection_info where;
    amqp_default_connection_info(&where);
    if (amqp_parse_url(words[1], &where) != AMQP_STATUS_OK) return 64;
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (amqp_socket_open(socket, where.host, where.port) != AMQP_STATUS_OK) return 1;
    const char *vhost = *where.vhost ? where.vhost : "/"; /* a URL that ends in a slash means the default one */
    amqp_login(connection, vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, where.user, where.password);
    amqp_channel_open(connection, CHANNEL);
    if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) return 1;
    consume(connection, words[2], words[3]);
    for (;;) {
        amqp_envelope_t delivery;
        amqp_maybe_release_buffers(connection);
        if (amqp_consume_message(connection, &delivery, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) return 2;
        answer(connection, &delivery.message);
        amqp_basic_ack(connection, CHANNEL, delivery.delivery_tag, 0);
        amqp_destroy_envelope(&delivery);
    }
}
