/* What the parts of the probe have in common. */
#pragma once

typedef const char *const *Arguments;

struct verb {
  const char *name;
  int arguments;
  int (*run)(Arguments);
};

/* The tables end with a verb that has no name. */
extern const struct verb host_verbs[];

void fail(const char *what);
/* Writes without waiting until the other end takes no more. */
void fill(int fd);
double seconds(void);
