/* Hold N event streams, count what comes on them, and say so in JSON.
 *
 *     sse_clients -p PORT -u PATH -n CONNECTIONS [-w WINDOW] [-H HEADER]... [-F FILE] [-a COUNT]
 *
 * With -F the n-th line of a file is a header of the n-th stream alone. With -a the streams come
 * from so many addresses in turn, 127.0.0.1 and those after it: one has ports for 28 000.
 *
 * One thread, one epoll: the subscribers of a benchmark must cost less than what is measured.
 * It speaks HTTP/1.1 with chunks, as browsers do, and tells events by the rules of SSE: `data:`
 * lines up to a blank line. Data that begin with `#SEQUENCE NANOSECONDS ` are checked and timed:
 *
 *     SEQUENCE      counts from 0 on each stream; a gap is a loss, a step back is an event twice
 *     NANOSECONDS   CLOCK_MONOTONIC when the event was due to be published
 *
 * Standard input is what to do, standard output one JSON object a line:
 *
 *     <- {"ready": N, "seconds": S}   every stream has had its response headers
 *     <- {"window": K}                with -w: K * WINDOW * N events have come in all
 *     -> expect COUNT                 finish once every stream has had COUNT events, and SETTLE
 *                                     milliseconds have brought none that is too many; or once
 *                                     no event has come for PATIENCE seconds
 *     -> ended                        finish once every stream has ended, likewise
 *     <- {"events": ...}              the result; then it waits for the end of standard input,
 *                                     so that its CPU time can be read from /proc
 *
 * Ids are compared, too: the hub's own strictly increase, so one that does not is counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef BUFFER
#define BUFFER (1 << 18) /* bytes read at once; fewer for the test, which cuts everywhere */
#endif

enum { PENDING = 128 };       /* fewer than any listen queue, so that no SYN is dropped */
enum { PATIENCE = 10 };       /* seconds of silence */
enum { SETTLE = 50 };         /* milliseconds */
enum { KEPT = 96 };           /* bytes of a line that came in pieces: all that is looked at */
enum { ID = 40 };
enum { STEPS = 64, OCTAVES = 40 }; /* of the histogram: 64 steps an octave are 1.6 % */

enum state { HEAD, PLAIN, SIZE, CHUNK, CHUNK_END, ENDED };

struct stream {
    int fd;
    enum state state;
    bool chunked, has_data, has_sequence;
    unsigned char id_length;
    char id[ID];
    size_t chunk;          /* bytes of it still to come */
    size_t line;           /* length of the line that is not complete yet */
    char kept[KEPT];       /* its first bytes */
    uint64_t events;
    uint64_t next;         /* the sequence number that should come */
    uint64_t sequence, stamp;
};

static struct stream *streams;
static size_t count, opened, connected, ended, unsatisfied;
static uint64_t window, windows, expected = UINT64_MAX;
static bool awaits_end;
static uint64_t events, bytes, comments, retries, lost, twice, unordered, first_ns, last_ns;
static uint64_t histogram[STEPS * OCTAVES], timed, slowest_us;
static char buffer[BUFFER];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* -- latencies -------------------------------------------------------------------------- */

static size_t bucket(uint64_t us)
{
    if (us < STEPS)
        return us;
    int octave = 63 - __builtin_clzll(us) - 6; /* 64 = 1 << 6 */
    size_t place = (size_t)(octave + 1) * STEPS + ((us >> octave) - STEPS);
    return place < STEPS * OCTAVES ? place : STEPS * OCTAVES - 1;
}

static uint64_t bucket_end_us(size_t place)
{
    if (place < STEPS)
        return place;
    size_t octave = place / STEPS - 1;
    return ((place % STEPS + STEPS + 1) << octave) - 1;
}

static double percentile_ms(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)timed), seen = 0;
    for (size_t place = 0; place < STEPS * OCTAVES; place++) {
        seen += histogram[place];
        if (seen > wanted)
            return (double)bucket_end_us(place) / 1000;
    }
    return (double)slowest_us / 1000;
}

/* -- one stream, from bytes to events --------------------------------------------------- */

static uint64_t number(const char **at, const char *end)
{
    uint64_t value = 0;
    while (*at < end && **at >= '0' && **at <= '9')
        value = value * 10 + (uint64_t)(*(*at)++ - '0');
    if (*at < end)
        (*at)++; /* the space after it */
    return value;
}

static void take_event(struct stream *s, uint64_t now)
{
    s->has_data = false;
    s->events++;
    events++;
    if (!first_ns)
        first_ns = now;
    last_ns = now;
    if (s->has_sequence) {
        if (s->sequence < s->next) {
            twice++;
        } else {
            lost += s->sequence - s->next;
            s->next = s->sequence + 1;
        }
        if (s->stamp) {
            uint64_t us = now > s->stamp ? (now - s->stamp) / 1000 : 0;
            histogram[bucket(us)]++;
            timed++;
            if (us > slowest_us)
                slowest_us = us;
        }
    }
    if (s->events == expected)
        unsatisfied--;
    if (window && events >= (windows + 1) * window * count) {
        printf("{\"window\": %" PRIu64 "}\n", ++windows);
        fflush(stdout);
    }
}

static void take_line(struct stream *s, const char *line, size_t length, uint64_t now)
{
    const char *end = line + (length < KEPT ? length : KEPT);
    if (!length) {
        if (s->has_data)
            take_event(s, now);
    } else if (*line == 'd' && length >= 5 && !memcmp(line, "data:", 5)) {
        if (s->has_data)
            return; /* the second line of the same data */
        s->has_data = true;
        line += 5;
        if (line < end && *line == ' ')
            line++;
        s->has_sequence = line < end && *line == '#';
        if (s->has_sequence) {
            line++;
            s->sequence = number(&line, end);
            s->stamp = number(&line, end);
        }
    } else if (*line == 'i' && length > 4 && !memcmp(line, "id: ", 4)) {
        size_t size = (size_t)(end - line) - 4;
        if (size > ID)
            size = ID;
        if (size == s->id_length && memcmp(line + 4, s->id, size) <= 0)
            unordered++;
        memcpy(s->id, line + 4, size);
        s->id_length = (unsigned char)size;
    } else if (*line == ':') {
        comments++;
    } else if (length > 6 && !memcmp(line, "retry:", 6)) {
        retries++;
    }
}

static void keep(struct stream *s, const char *piece, size_t length)
{
    if (s->line < KEPT)
        memcpy(s->kept + s->line, piece, length < KEPT - s->line ? length : KEPT - s->line);
    s->line += length;
}

static void take_body(struct stream *s, const char *at, size_t length, uint64_t now)
{
    const char *end = at + length;
    while (at < end) {
        const char *feed = memchr(at, '\n', (size_t)(end - at));
        if (!feed) {
            keep(s, at, (size_t)(end - at));
            return;
        }
        if (s->line) {
            keep(s, at, (size_t)(feed - at));
            take_line(s, s->kept, s->line, now);
            s->line = 0;
        } else {
            take_line(s, at, (size_t)(feed - at), now);
        }
        at = feed + 1;
    }
}

/* Take one byte of the response's head. */
static void take_head(struct stream *s, char byte)
{
    if (byte != '\n') {
        if (byte != '\r')
            keep(s, &byte, 1);
        return;
    }
    size_t length = s->line < KEPT ? s->line : KEPT - 1;
    s->kept[length] = 0;
    if (!s->line) {
        s->state = s->chunked ? SIZE : PLAIN;
        connected++;
    } else if (!strncmp(s->kept, "HTTP/", 5)) {
        if (strncmp(s->kept + 8, " 200", 4))
            fail("a stream was refused: %s", s->kept);
    } else if (!strncasecmp(s->kept, "Transfer-Encoding: chunked", 26)) {
        s->chunked = true;
    }
    s->line = 0;
}

static void take_bytes(struct stream *s, const char *at, size_t length, uint64_t now)
{
    const char *end = at + length;
    while (at < end && s->state != ENDED) {
        switch (s->state) {
        case HEAD:
            take_head(s, *at++);
            break;
        case PLAIN:
            take_body(s, at, (size_t)(end - at), now);
            return;
        case SIZE:
            if (*at == '\n')
                s->state = s->chunk ? CHUNK : ENDED;
            else if (*at != '\r')
                s->chunk = s->chunk * 16 + (size_t)(*at <= '9' ? *at - '0' : (*at | 32) - 'a' + 10);
            at++;
            break;
        case CHUNK: {
            size_t here = (size_t)(end - at) < s->chunk ? (size_t)(end - at) : s->chunk;
            take_body(s, at, here, now);
            at += here;
            s->chunk -= here;
            if (!s->chunk)
                s->state = CHUNK_END;
            break;
        }
        case CHUNK_END:
            if (*at++ == '\n')
                s->state = SIZE;
            break;
        case ENDED:
            break;
        }
    }
}

/* -- connections ------------------------------------------------------------------------ */

/* A request lacks its empty line: with a file, a header is read from there before it. */
static void open_stream(struct stream *s, int port, const char *request, FILE *file,
                        uint32_t source, int epoll)
{
    char whole[4096 + 512], line[512] = "";
    if (file && !fgets(line, sizeof line, file))
        fail("the file has too few lines");
    line[strcspn(line, "\n")] = 0;
    int size = snprintf(whole, sizeof whole, "%s%s%s\r\n", request, line, file ? "\r\n" : "");
    if (size < 0 || (size_t)size >= sizeof whole)
        fail("the request is too long");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        fail("socket: %s", strerror(errno));
    if (source) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
        int on = 1; /* the port is chosen by connect(), which knows what it is to differ from */
        if (setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) ||
            bind(s->fd, (struct sockaddr *)&from, sizeof from))
            fail("bind: %s", strerror(errno));
    }
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address))
        fail("connect: %s", strerror(errno));
    if (write(s->fd, whole, (size_t)size) != size)
        fail("the request could not be sent: %s", strerror(errno));
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &interest);
}

static void receive(struct stream *s)
{
    ssize_t length = recv(s->fd, buffer, sizeof buffer, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length > 0) {
        bytes += (uint64_t)length;
        take_bytes(s, buffer, (size_t)length, now_ns());
    }
    if (length <= 0 || s->state == ENDED) {
        if (s->state == HEAD)
            fail("a stream ended before its headers");
        close(s->fd);
        s->state = ENDED;
        ended++;
    }
}

/* Return false at the end of standard input. */
static bool obey(void)
{
    static char line[64];
    static size_t length;
    ssize_t got = read(0, line + length, sizeof line - 1 - length);
    if (got <= 0)
        return false;
    length += (size_t)got;
    if (!memchr(line, '\n', length))
        return true;
    line[length] = 0;
    length = 0;
    if (!strcmp(line, "ended\n")) {
        awaits_end = true;
        return true;
    }
    if (sscanf(line, "expect %" SCNu64, &expected) != 1)
        fail("not a command: %s", line);
    unsatisfied = 0;
    for (size_t n = 0; n < count; n++)
        unsatisfied += streams[n].events < expected;
    return true;
}

static void report(void)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (size_t n = 0; n < count; n++) {
        struct stream *s = &streams[n];
        least = s->events < least ? s->events : least;
        most = s->events > most ? s->events : most;
        if (expected == UINT64_MAX)
            continue;
        /* What is missing at the end of a stream shows in no gap. */
        uint64_t reached = s->has_sequence ? s->next : s->events;
        lost += reached < expected ? expected - reached : 0;
        if (!s->has_sequence && s->events > expected)
            twice += s->events - expected;
    }
    printf("{\"streams\": %zu, \"ended\": %zu, \"events\": %" PRIu64 ", \"least\": %" PRIu64
           ", \"most\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"twice\": %" PRIu64
           ", \"unordered_ids\": %" PRIu64 ", \"comments\": %" PRIu64 ", \"retries\": %" PRIu64
           ", \"bytes\": %" PRIu64
           ", \"first_ns\": %" PRIu64 ", \"last_ns\": %" PRIu64 ", \"timed\": %" PRIu64
           ", \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}\n",
           count, ended, events, least, most, lost, twice, unordered, comments, retries, bytes,
           first_ns, last_ns, timed, percentile_ms(0.5), percentile_ms(0.99), (double)slowest_us / 1000);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int port = 0, option;
    size_t addresses = 0;
    const char *path = "/";
    FILE *file = NULL;
    char headers[2048] = "", request[4096];
    while ((option = getopt(argc, argv, "p:u:n:w:H:F:a:")) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'n': count = strtoul(optarg, NULL, 10); break;
        case 'w': window = strtoul(optarg, NULL, 10); break;
        case 'a': addresses = strtoul(optarg, NULL, 10); break;
        case 'H':
            if (strlen(headers) + strlen(optarg) + 3 > sizeof headers)
                fail("too many headers");
            strcat(strcat(headers, optarg), "\r\n");
            break;
        case 'F':
            if (!(file = fopen(optarg, "r")))
                fail("%s: %s", optarg, strerror(errno));
            break;
        default: return 2;
        }
    }
    if (!port || !count)
        fail("usage: sse_clients -p PORT -u PATH -n CONNECTIONS [-w WINDOW] [-H HEADER]... "
             "[-F FILE] [-a COUNT]");
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nAccept: text/event-stream\r\n%s",
                        path, port, headers);
    if (size >= (int)sizeof request)
        fail("the request is too long");

    streams = calloc(count, sizeof *streams);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL}, happened[256];
    if (!streams || epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &interest))
        fail("standard input must be a pipe");

    uint64_t started = now_ns(), heard = started, progress = 0;
    bool ready = false, done = false;
    while (true) {
        for (; opened < count && opened - connected < PENDING; opened++) {
            uint32_t source = addresses ? INADDR_LOOPBACK + (uint32_t)(opened % addresses) : 0;
            open_stream(&streams[opened], port, request, file, source, epoll);
        }
        int number_of = epoll_wait(epoll, happened, 256, SETTLE);
        bool open = true;
        for (int n = 0; n < number_of; n++) {
            if (happened[n].data.ptr)
                receive(happened[n].data.ptr);
            else
                open = obey();
        }
        /* Heartbeats are no progress. */
        if (progress != connected + events + ended) {
            progress = connected + events + ended;
            heard = now_ns();
        }
        if (!ready && connected == count) {
            ready = true;
            heard = now_ns();
            printf("{\"ready\": %zu, \"seconds\": %.3f}\n", count, (double)(heard - started) / 1e9);
            fflush(stdout);
        }
        uint64_t silence = now_ns() - heard;
        bool silent = silence > (uint64_t)PATIENCE * 1000000000u;
        bool settled = silence > (uint64_t)SETTLE * 1000000u;
        if (!ready && silent)
            fail("%zu of %zu streams got no answer", count - connected, count);
        bool complete = ended == count || (!unsatisfied && settled);
        bool over = awaits_end ? ended == count || silent
                               : expected != UINT64_MAX && (complete || silent);
        if (!done && ready && (over || !open)) {
            done = true;
            report();
        }
        if (!open)
            return 0;
    }
}
