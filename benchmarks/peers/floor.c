/* The floor: the CPU cost of writing one frame to many sockets, with nothing else.
 *
 *     cc -O2 -o floor floor.c && ./floor PORT
 *
 * One epoll loop. A text frame received on /pub is framed once and sent to every subscriber, with one
 * send for each. There is no store, no limit and no queue: the loop waits for a socket that is full.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FD 65536
#define ROOM (1 << 16)

enum { NEW = 1, SUBSCRIBER, PUBLISHER };
static unsigned char state[MAX_FD];
static int subscribers[MAX_FD], count;
static unsigned char *inbox[MAX_FD];
static size_t held[MAX_FD];

static uint32_t rotl(uint32_t x, int n) { return x << n | x >> (32 - n); }

/* SHA-1 of at most 119 bytes; the input of a handshake has 60. */
static void sha1(const unsigned char *text, size_t size, unsigned char out[20]) {
  unsigned char block[128] = {0};
  size_t blocks = size < 56 ? 1 : 2;
  uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
  memcpy(block, text, size);
  block[size] = 0x80;
  for (int i = 0; i < 8; i++) block[blocks * 64 - 1 - i] = (uint64_t)size * 8 >> 8 * i;
  for (size_t b = 0; b < blocks; b++) {
    uint32_t w[80], v[5];
    for (int i = 0; i < 16; i++) {
      const unsigned char *p = block + b * 64 + i * 4;
      w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
    }
    for (int i = 16; i < 80; i++) w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 80; i++) {
      uint32_t f, k;
      if (i < 20) f = (v[1] & v[2]) | (~v[1] & v[3]), k = 0x5A827999;
      else if (i < 40) f = v[1] ^ v[2] ^ v[3], k = 0x6ED9EBA1;
      else if (i < 60) f = (v[1] & v[2]) | (v[1] & v[3]) | (v[2] & v[3]), k = 0x8F1BBCDC;
      else f = v[1] ^ v[2] ^ v[3], k = 0xCA62C1D6;
      uint32_t next = rotl(v[0], 5) + f + v[4] + k + w[i];
      v[4] = v[3], v[3] = v[2], v[2] = rotl(v[1], 30), v[1] = v[0], v[0] = next;
    }
    for (int i = 0; i < 5; i++) h[i] += v[i];
  }
  for (int i = 0; i < 20; i++) out[i] = h[i / 4] >> (24 - 8 * (i % 4));
}

static void base64(const unsigned char *in, char out[29]) { /* of 20 bytes */
  const char *digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int i = 0; i < 7; i++) {
    uint32_t three = in[i * 3] << 16 | in[i * 3 + 1] << 8 | (i < 6 ? in[i * 3 + 2] : 0);
    for (int j = 0; j < 4; j++) out[i * 4 + j] = digits[three >> (18 - 6 * j) & 63];
  }
  out[27] = '=', out[28] = 0;
}

static void send_all(int fd, const unsigned char *data, size_t size) {
  while (size) {
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) {
      struct pollfd full = {fd, POLLOUT, 0};
      poll(&full, 1, -1);
      continue;
    }
    if (sent < 0) return;
    data += sent, size -= sent;
  }
}

static void leave(int fd) {
  for (int i = 0; i < count; i++)
    if (subscribers[i] == fd) subscribers[i--] = subscribers[--count];
  free(inbox[fd]);
  inbox[fd] = NULL, held[fd] = 0, state[fd] = 0;
  close(fd);
}

static size_t greet(int fd) {
  unsigned char *got = inbox[fd], *end = memmem(got, held[fd], "\r\n\r\n", 4);
  unsigned char *name = memmem(got, held[fd], "Sec-WebSocket-Key: ", 19);
  if (!end || !name) return 0;
  unsigned char key[60], hash[20];
  char accept[29], answer[256];
  memcpy(key, name + 19, 24);
  memcpy(key + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
  sha1(key, 60, hash);
  base64(hash, accept);
  int size = snprintf(answer, sizeof answer,
                      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                      "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
  state[fd] = memcmp(got, "GET /pub", 8) ? SUBSCRIBER : PUBLISHER;
  if (state[fd] == SUBSCRIBER) subscribers[count++] = fd;
  send_all(fd, (unsigned char *)answer, size);
  return end + 4 - got;
}

static size_t publish(int fd) { /* one masked text frame of up to 64 KiB */
  unsigned char *got = inbox[fd];
  if (held[fd] < 6) return 0;
  size_t size = got[1] & 127, head = 6;
  if (size == 126) head = 8, size = got[2] << 8 | got[3];
  if (held[fd] < head + size) return 0;
  static unsigned char frame[ROOM + 4];
  size_t front = size < 126 ? 2 : 4;
  frame[0] = 0x81, frame[1] = size < 126 ? size : 126;
  if (front == 4) frame[2] = size >> 8, frame[3] = size;
  for (size_t i = 0; i < size; i++) frame[front + i] = got[head + i] ^ got[head - 4 + i % 4];
  if ((got[0] & 15) == 1)
    for (int i = 0; i < count; i++) send_all(subscribers[i], frame, front + size);
  return head + size;
}

int main(int argc, char **argv) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listening, (struct sockaddr *)&here, sizeof here) || listen(listening, 1024)) return 1;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listening}, ready[256];
  epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event);
  for (;;) {
    int n = epoll_wait(poller, ready, 256, -1);
    for (int i = 0; i < n; i++) {
      int fd = ready[i].data.fd;
      if (fd == listening) {
        while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          if (fd >= MAX_FD) { close(fd); continue; }
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          state[fd] = NEW, inbox[fd] = malloc(ROOM);
          event.data.fd = fd;
          epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        }
        continue;
      }
      ssize_t got = recv(fd, inbox[fd] + held[fd], ROOM - held[fd], 0);
      if (got <= 0) {
        if (got == 0 || errno != EAGAIN) leave(fd);
        continue;
      }
      held[fd] += got;
      for (;;) {
        size_t used = state[fd] == NEW ? greet(fd) : state[fd] == PUBLISHER ? publish(fd) : held[fd];
        if (!used) break;
        memmove(inbox[fd], inbox[fd] + used, held[fd] -= used);
        if (!held[fd]) break;
      }
    }
  }
}
