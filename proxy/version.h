/* The version that --version, HELLO's proxy fields, INFO and the metrics show. */
#ifndef HF_VERSION_H
#define HF_VERSION_H

#define HOLDFAST_VERSION "0.1.0"

#endif
