/* Scores of one clip, by the ONNX Runtime C API.
 *
 *   classify BUNDLE/fused.onnx SAMPLES RATE < samples.f32
 *
 * Reads SAMPLES floating-point samples at the model's rate from stdin, prints the scores, one a line, in the order of
 * the labels in manifest.json.
 */
#include <stdio.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

static const OrtApi *ort;

static void check(OrtStatus *status)
{
    if (status != NULL) {
        fprintf(stderr, "error: %s\n", ort->GetErrorMessage(status));
        ort->ReleaseStatus(status);
        exit(3);
    }
}

/* A number from 1 to largest, or the end of the program. */
static double number(const char *text, const char *name, double largest)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 1 && value <= largest)) {
        fprintf(stderr, "error: %s: found %s, expected a number from 1 to %.0f\n", name, text, largest);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: classify BUNDLE/fused.onnx SAMPLES RATE < samples.f32\n");
        return 2;
    }
    const size_t count = (size_t)number(argv[2], "SAMPLES", 1e9);
    float source[2] = {(float)number(argv[3], "RATE", 1e7), 0.0f};
    float *samples = malloc(count * sizeof *samples);
    if (samples == NULL || fread(samples, sizeof *samples, count, stdin) != count) {
        fprintf(stderr, "error: expected %zu samples on stdin\n", count);
        return 1;
    }
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (ort == NULL) {
        fprintf(stderr, "error: the ONNX Runtime library is older than its header\n");
        return 4;
    }

    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtMemoryInfo *memory;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "classify", &env));
    check(ort->CreateSessionOptions(&options));
    check(ort->SetIntraOpNumThreads(options, 1));
    check(ort->CreateSession(env, argv[1], options, &session));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

    const int64_t waveform_shape[] = {1, (int64_t)count}, source_shape[] = {1, 2};
    OrtValue *inputs[2] = {NULL, NULL}, *scores = NULL;
    check(ort->CreateTensorWithDataAsOrtValue(memory, samples, count * sizeof *samples, waveform_shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &inputs[0]));
    check(ort->CreateTensorWithDataAsOrtValue(memory, source, sizeof source, source_shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &inputs[1]));
    const char *const given[] = {"waveform", "source"}, *const wanted[] = {"scores"};
    check(ort->Run(session, NULL, given, (const OrtValue *const *)inputs, 2, wanted, 1, &scores));

    OrtTensorTypeAndShapeInfo *shape;
    size_t labels;
    float *values;
    check(ort->GetTensorTypeAndShape(scores, &shape));
    check(ort->GetTensorShapeElementCount(shape, &labels));
    check(ort->GetTensorMutableData(scores, (void **)&values));
    for (size_t i = 0; i < labels; i++)
        printf("%.6f\n", values[i]);

    ort->ReleaseTensorTypeAndShapeInfo(shape);
    ort->ReleaseValue(scores);
    ort->ReleaseValue(inputs[0]);
    ort->ReleaseValue(inputs[1]);
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(env);
    free(samples);
    return 0;
}
