/* Time, read in one place. Units are in the names; monotonic clocks never go backwards. */
#ifndef HF_CLOCK_H
#define HF_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_us(void); /* CLOCK_MONOTONIC, microseconds */
uint64_t clock_mono_ms(void); /* CLOCK_MONOTONIC, milliseconds */
uint64_t clock_boot_ms(void); /* CLOCK_BOOTTIME, milliseconds: goes on while the machine is suspended */
uint64_t clock_wall_ms(void); /* CLOCK_REALTIME, Unix time in milliseconds */

#endif
