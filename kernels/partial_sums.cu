// y[k] = addend[k] + sum over parts of partial[part, k], in the order of the parts: the second
// launch of sums that many blocks share. With two outputs, `partial` is (parts, 2, count), and
// blockIdx.y is the output.
//
// Reads partial and the addends. Overwrites y, which may take the addend's place: the thread that
// writes a value has read it. A block has `rows` rows of threads, each of which adds every rows-th
// part, and takes 256 / rows values at a time. One row is enough unless there are many parts.
#include "include/view.cuh"

struct PartialSumsParams { float *y, *second; const float* partial; View addend, second_addend; i64 count; int parts, rows; };
KERNEL(partial_sums, PartialSumsParams, 256, 4) {
    float* scratch = reinterpret_cast<float*>(shared_memory());
    const bool is_second = blockIdx.y != 0;
    float* y = is_second ? p.second : p.y;
    const View addend = is_second ? p.second_addend : p.addend;
    const int across = 256 / p.rows, row = threadIdx.x / across;
    for (i64 first = i64(blockIdx.x) * across; first < p.count; first += i64(gridDim.x) * across) {
        const i64 k = first + threadIdx.x % across;
        float sum = 0;
        if (k < p.count) {
            for (int part = row; part < p.parts; part += p.rows) sum += p.partial[(i64(part) * gridDim.y + blockIdx.y) * p.count + k];
        }
        if (p.rows > 1) {
            scratch[threadIdx.x] = sum;
            block_barrier();
            if (row == 0) {
                for (int r = 1; r < p.rows; r++) sum += scratch[r * across + threadIdx.x];
            }
            block_barrier();
        }
        if (row == 0 && k < p.count) y[k] = sum + (addend.data ? at(addend, k) : 0.0f);
    }
}
