// How long each core was busy, softirqs and interrupts included, whoever they are charged to. A thread of the lowest
// priority on every core asks the clock without pause; where two answers lie far apart, something else had the core.
// Prints "ready", watches until its standard input ends, then prints the busy nanoseconds of each core.
#define _GNU_SOURCE
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define GAP 400 // nanoseconds: several times what asking the clock takes
#define MOST_CORES 64

struct core {
	pthread_t thread;
	int cpu;
	atomic_bool watches;
	int64_t busy;
};

static atomic_bool stop;
static struct core cores[MOST_CORES];

static void *watch(void *argument)
{
	struct core *core = argument;
	struct sched_param none = { 0 };
	pin(core->cpu);
	if (sched_setscheduler(0, SCHED_IDLE, &none) < 0)
		die("SCHED_IDLE");
	int64_t before = clock_ns(CLOCK_MONOTONIC);
	core->watches = true;
	while (!stop) {
		int64_t now = clock_ns(CLOCK_MONOTONIC);
		if (now - before > GAP)
			core->busy += now - before;
		before = now;
	}
	return NULL;
}

int main(void)
{
	char rest[16];
	int online = (int)sysconf(_SC_NPROCESSORS_ONLN);
	online = online > MOST_CORES ? MOST_CORES : online;
	for (int i = 0; i < online; i++) {
		cores[i].cpu = i;
		if (pthread_create(&cores[i].thread, NULL, watch, &cores[i]) != 0)
			die("pthread_create");
	}
	for (int i = 0; i < online; i++)
		while (!cores[i].watches)
			sched_yield();
	int64_t begun = clock_ns(CLOCK_MONOTONIC);
	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, rest, sizeof(rest)) > 0)
		;
	stop = true;
	for (int i = 0; i < online; i++)
		pthread_join(cores[i].thread, NULL);
	printf("{\"wall_ns\": %lld, \"busy_ns\": [", (long long)(clock_ns(CLOCK_MONOTONIC) - begun));
	for (int i = 0; i < online; i++)
		printf("%s%lld", i ? ", " : "", (long long)cores[i].busy);
	puts("]}");
	return 0;
}
