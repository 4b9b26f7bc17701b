// What captures cost when nothing arrives. A thread of the lowest priority on every core asks the clock without pause;
// where two answers lie far apart, something else had the core. Compares before and after opening N captures.
#define _GNU_SOURCE
#include "capturing.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define GAP 400 // nanoseconds: several times what asking the clock takes
#define SLICE 2000000LL // a longer gap is another program's slice or the host's, not an interrupt
#define MOST_CORES 64
#define MOST_CAPTURES 1000

struct core {
	pthread_t thread;
	int cpu;
	_Atomic int64_t stolen, watched;
};

static atomic_bool stop;
static struct core cores[MOST_CORES];
static struct capture *captures[MOST_CAPTURES];

static void *watch(void *argument)
{
	struct core *core = argument;
	struct sched_param none = { 0 };
	pin(core->cpu);
	if (sched_setscheduler(0, SCHED_IDLE, &none) < 0)
		die("SCHED_IDLE");
	int64_t before = clock_ns(CLOCK_MONOTONIC);
	while (!stop) {
		int64_t now = clock_ns(CLOCK_MONOTONIC), gap = now - before;
		if (gap < SLICE) {
			core->watched += gap;
			core->stolen += gap > GAP ? gap : 0;
		}
		before = now;
	}
	return NULL;
}

// The part of one core's time, in percent, that others took; summed over all cores.
static double stolen_during(long ms, int count)
{
	int64_t stolen[MOST_CORES], watched[MOST_CORES];
	double sum = 0;
	for (int i = 0; i < count; i++) {
		stolen[i] = cores[i].stolen;
		watched[i] = cores[i].watched;
	}
	sleep_until(clock_ns(CLOCK_MONOTONIC) + ms * 1000000);
	for (int i = 0; i < count; i++)
		sum += 100.0 * (double)(cores[i].stolen - stolen[i]) / (double)(cores[i].watched - watched[i] + 1);
	return sum;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: idle DEVICE [--count N] [--way 0|1|2] [--retire MS] [--ring BYTES] [--ms N]\n");
		return 2;
	}
	struct capture_options options = capture_options(argv);
	long count = option(argv, "count", 100), ms = option(argv, "ms", 500);
	int online = (int)sysconf(_SC_NPROCESSORS_ONLN);
	count = count > MOST_CAPTURES ? MOST_CAPTURES : count;
	online = online > MOST_CORES ? MOST_CORES : online;
	for (int i = 0; i < online; i++) {
		cores[i].cpu = i;
		if (pthread_create(&cores[i].thread, NULL, watch, &cores[i]) != 0)
			die("pthread_create");
	}
	stolen_during(50, online); // until every thread watches
	double before = stolen_during(ms, online);
	for (long i = 0; i < count; i++) {
		captures[i] = capture_open(argv[1], &options);
		capture_filter(captures[i], true);
	}
	double during = stolen_during(ms, online);
	for (long i = 0; i < count; i++)
		capture_close(captures[i]);
	double after = stolen_during(ms, online);
	stop = true;
	for (int i = 0; i < online; i++)
		pthread_join(cores[i].thread, NULL);
	printf("{\"captures\": %ld, \"before\": %.2f, \"during\": %.2f, \"after\": %.2f}\n", count, before, during,
	       after);
	return 0;
}
