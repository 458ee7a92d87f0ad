/* A program that was there before. It takes its parameters from five environment variables, reads samples.bin, and
   leaves files in its directory: result.csv and curve.csv, which are wanted, and scratch.bin, which is not. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double number(const char *name) {
    const char *text = getenv(name);
    if (text == NULL) {
        fprintf(stderr, "%s is not set\n", name);
        exit(2);
    }
    return atof(text);
}

static FILE *opened(const char *name, const char *mode) {
    FILE *file = fopen(name, mode);
    if (file == NULL) {
        perror(name);
        exit(1);
    }
    return file;
}

int main(void) {
    double rate = number("DECAY_RATE"), noise = number("DECAY_NOISE"), start = number("DECAY_START");
    long steps = (long)number("DECAY_STEPS"), offset = (long)number("DECAY_OFFSET");
    FILE *samples = opened("samples.bin", "rb"), *curve = opened("curve.csv", "w");
    double value = start, sum = 0;
    fseek(samples, offset << 16, SEEK_SET);
    fprintf(curve, "step,value\n");
    for (long step = 0; step < steps; step++) {
        int sample = fgetc(samples);
        value = value * exp(-rate) + noise * (sample / 255.0 - 0.5);
        sum += value;
        if (step % 100 == 0)
            fprintf(curve, "%ld,%.9f\n", step, value);
    }
    fclose(curve);
    FILE *scratch = opened("scratch.bin", "wb");
    for (int kilobyte = 0; kilobyte < 100; kilobyte++)
        fprintf(scratch, "%1024d", kilobyte);
    fclose(scratch);
    FILE *result = opened("result.csv", "w");
    fprintf(result, "last,mean\n%.9f,%.9f\n", value, sum / steps);
    return fclose(result) == 0 ? 0 : 1;
}
