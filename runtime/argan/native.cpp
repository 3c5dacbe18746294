// The inner loops of the lens. Each function has its reference in NumPy: see `planes.py`,
// `slices.py`, `highlights.py` and `render.py`.
//
// Planes are float, rows dense unless a stride is given; strides count elements, those of pixels
// bytes. Every result depends on its own surroundings alone, so that it does not matter how a
// picture is cut into tiles.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define SIMD __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define SIMD
#endif
#define INLINE inline __attribute__((always_inline))

// The arrays of a loop never overlap.
#if defined(__clang__)
#define APART _Pragma("clang loop vectorize(assume_safety)")
#else
#define APART _Pragma("GCC ivdep")
#endif

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();

constexpr int LANES = 8;
typedef float Vector __attribute__((vector_size(4 * LANES)));
INLINE Vector load(const float* at) {
    Vector value;
    std::memcpy(&value, at, sizeof value);
    return value;
}
INLINE void store(float* at, Vector value) { std::memcpy(at, &value, sizeof value); }

// Bodies of loops are written once for LANES px and for one.
template <class V>
INLINE V get(const float* at) {
    if constexpr (std::is_same_v<V, float>)
        return *at;
    else
        return load(at);
}
template <class V>
INLINE void put(float* at, V value) {
    if constexpr (std::is_same_v<V, float>)
        *at = value;
    else
        store(at, value);
}
template <class V>
INLINE V within(V value, V low, V high) {
    const V v = value < low ? low : value;
    return v > high ? high : v;
}
INLINE float root(float value) { return std::sqrt(value); }
INLINE Vector root(Vector value) {
    Vector result;
    for (int k = 0; k < LANES; ++k) result[k] = std::sqrt(value[k]);
    return result;
}
template <class Body>
INLINE void each(int count, Body body) {
    int x = 0;
    for (; x + LANES <= count; x += LANES) body(x, Vector{});
    for (; x < count; ++x) body(x, 0.f);
}
#define BODY (int x, auto zero) __attribute__((always_inline))

struct Range {
    float low = INF, high = -INF;

    INLINE void join(const Vector& lows, const Vector& highs) {
        for (int k = 0; k < LANES; ++k) {
            low = std::min(low, lows[k]);
            high = std::max(high, highs[k]);
        }
    }
};

INLINE int clamped(long at, long size) {
    return int(at < 0 ? 0 : at >= size ? size - 1 : at);
}

// `slices.ramp`: 0 up to one squared radius, 1 from another on; constant if either is infinite.
struct Ramp {
    float low, slope, start;

    Ramp(float from, float to)
        : low(std::isinf(from) || std::isinf(to) ? 0.f : from),
          slope(std::isinf(from) || std::isinf(to) ? 0.f : 1.f / (to - from)),
          start(std::isinf(from) ? 1.f : 0.f) {}

    template <class V>
    INLINE V operator()(V square) const {
        return within<V>((square - low) * slope + start, V{}, V{} + 1.f);
    }
};

// ---------------------------------------------------------------- slices

constexpr int PLANES = 5;  // premultiplied red, green, blue; share; what is not hidden
constexpr int CELL = 16;   // px: squares in which the range of radii is known
constexpr int WIDE = 64, HIGH = 32;  // px: blocks in which all slices are laid, front to back
constexpr int STEP = 2 * LANES;      // px blurred at once
constexpr int REACH = 16;            // px of a pupil at most
constexpr int STRIDE = WIDE + 2 * REACH + STEP, ROW = PLANES * STRIDE;  // of sums
constexpr float CLEAR = 1e-4f;       // less than that is not seen

// A pupil is one span per column, so that a blur by it is, in each column, a difference of two
// running sums: a pixel costs O(radius), not O(radius^2). An end of a span lies between two rows.
struct Tap {
    long top, bottom;  // where in the sums, from the first that a pixel's pupil needs
    float factor[4];   // of the sums at the top, a row below that, at the bottom, below that
};

struct Slice {
    float below, at, above;
    int reach;
    std::vector<Tap> taps;
};

struct Layer {
    const float *red, *green, *blue, *coverage, *square;  // coverage null: 1 everywhere
    long height, width;
};

struct Block {
    long y0, y1, x0, x1;
};


std::vector<Tap> taps_of(const float* spans, const float* weights, int rings, int reach) {
    const int columns = 2 * reach + 1;
    std::vector<Tap> taps;
    for (int k = 0; k < rings; ++k)
        for (int c = 0; c < columns; ++c) {
            const float* span = spans + 2 * (k * columns + c);
            if (span[1] <= span[0]) continue;
            // The sums with a row reach to its lower edge, half a px below its middle.
            const float top = span[0] - 0.5f, bottom = span[1] - 0.5f;
            const float t = std::floor(top), b = std::floor(bottom), w = weights[k];
            taps.push_back({(long(t) + reach + 1) * ROW + c, (long(b) + reach + 1) * ROW + c,
                            {-w * (1 - (top - t)), -w * (top - t), w * (1 - (bottom - b)),
                             w * (bottom - b)}});
        }
    return taps;
}

// The slice's five planes of row y, columns x0 to x1, added to the sums of all rows above.
SIMD void sum_row(const Layer& layer, long y, long x0, long x1, const Slice& slice, bool front,
                  const float* before, float* sum) {
    const Ramp at_least(slice.below, slice.at), in_front(slice.at, slice.above);
    const long begin = std::max(x0, 0l), end = std::min(x1, layer.width);
    const long at = y * layer.width + begin;
    const float *red = layer.red + at, *green = layer.green + at, *blue = layer.blue + at,
                *square = layer.square + at, *coverage = layer.coverage ? layer.coverage + at : 0;
    float *r = sum + (begin - x0), *g = r + STRIDE, *b = g + STRIDE, *s = b + STRIDE,
          *u = s + STRIDE;
    const long back = before - sum;
    const int count = int(end - begin);
    each(count, [&] BODY {
        using V = decltype(zero);
        const V base = coverage ? get<V>(coverage + x) : zero + 1.f, here = get<V>(square + x);
        const V nearer = in_front(here), share = at_least(here) - nearer;
        put<V>(r + x, get<V>(r + x + back) + get<V>(red + x) * share);
        put<V>(g + x, get<V>(g + x + back) + get<V>(green + x) * share);
        put<V>(b + x, get<V>(b + x + back) + get<V>(blue + x) * share);
        put<V>(s + x, get<V>(s + x + back) + base * share);
        put<V>(u + x, get<V>(u + x + back) + ((front ? zero + 1.f : base) - base * nearer));
    });
    for (int p = 0; p < PLANES; ++p) {  // beyond the picture its last column goes on
        float* line = sum + p * STRIDE;
        for (long x = x0; x < begin; ++x) line[x - x0] = line[begin - x0];
        for (long x = end; x < x1; ++x) line[x - x0] = line[end - 1 - x0];
    }
}

// STEP pixels of five blurred planes, laid behind `total`.
INLINE void lay_behind(const Vector (&blurred)[PLANES][2], float least, float* const (&total)[4]) {
    for (int k = 0; k < 2; ++k) {
        const Vector clear = load(total[3] + k * LANES), unhidden = blurred[4][k];
        const Vector weight = clear / (unhidden > least ? unhidden : least - Vector{});
        for (int p = 0; p < 3; ++p)
            store(total[p] + k * LANES, load(total[p] + k * LANES) + weight * blurred[p][k]);
        const Vector left = clear - weight * blurred[3][k], zero{}, one = 1.f - zero;
        store(total[3] + k * LANES, left > 0.f ? (left < 1.f ? left : one) : zero);
    }
}

// Whether a slice has anything within reach of STEP px, by its sums above and below, and any of
// them is still clear.
INLINE bool matters(const float* above, const float* below, int reach, const float* clear,
                    int count) {
    float most = 0.f;
    for (int x = 0; x < count; ++x) most = std::max(most, clear[x]);
    if (most <= CLEAR) return false;
    for (int x = 0; x < STEP + 2 * reach; x += LANES) {
        const Vector a = load(above + x), b = load(below + x);
        for (int k = 0; k < LANES; ++k)
            if (a[k] != b[k]) return true;
    }
    return false;
}

// One row of a block: blurred by the pupil and laid behind. sums: those above all it reaches.
SIMD void blur_row(const float* sums, const Slice& slice, int count, float least,
                   float* const* total) {
    const float *shares = sums + 3 * STRIDE, *below = shares + (2 * slice.reach + 1) * ROW;
    for (int x = 0; x < count; x += STEP) {
        const int some = std::min(STEP, count - x);
        if (!matters(shares + x, below + x, slice.reach, total[3] + x, some)) continue;
        Vector blurred[PLANES][2] = {};
        for (const Tap& tap : slice.taps) {
            const float *t = sums + tap.top + x, *b = sums + tap.bottom + x;
            const float f0 = tap.factor[0], f1 = tap.factor[1], f2 = tap.factor[2],
                        f3 = tap.factor[3];
#pragma GCC unroll 5
            for (int p = 0; p < PLANES; ++p)
#pragma GCC unroll 2
                for (int k = 0; k < 2; ++k) {
                    const int at = p * STRIDE + k * LANES;
                    blurred[p][k] += f0 * load(t + at);
                    blurred[p][k] += f1 * load(t + ROW + at);
                    blurred[p][k] += f2 * load(b + at);
                    blurred[p][k] += f3 * load(b + ROW + at);
                }
        }
        if (some == STEP) {
            float* const into[4] = {total[0] + x, total[1] + x, total[2] + x, total[3] + x};
            lay_behind(blurred, least, into);
        } else {
            float part[4][STEP] = {};
            for (int p = 0; p < 4; ++p) std::copy_n(total[p] + x, some, part[p]);
            float* const into[4] = {part[0], part[1], part[2], part[3]};
            lay_behind(blurred, least, into);
            for (int p = 0; p < 4; ++p) std::copy_n(part[p], some, total[p] + x);
        }
    }
}

// A slice that is not blurred: exact, without sums.
SIMD void lay_sharp(const Layer& layer, const Slice& slice, long at, bool front, int count,
                    float least, float* const* total) {
    const Ramp here(slice.below, slice.at), above(slice.at, slice.above);
    const float *red = layer.red + at, *green = layer.green + at, *blue = layer.blue + at,
                *square = layer.square + at;
    float *r = total[0], *g = total[1], *b = total[2], *clear = total[3];
    APART
    for (int x = 0; x < count; ++x) {
        const float base = layer.coverage ? layer.coverage[at + x] : 1.f;
        const float nearer = above(square[x]), share = here(square[x]) - nearer;
        const float unhidden = (front ? 1.f : base) - base * nearer;
        const float weight = clear[x] / (unhidden > least ? unhidden : least);
        r[x] += weight * (red[x] * share);
        g[x] += weight * (green[x] * share);
        b[x] += weight * (blue[x] * share);
        const float left = clear[x] - weight * (base * share);
        clear[x] = left > 0.f ? (left < 1.f ? left : 1.f) : 0.f;
    }
}

SIMD float most_of(const float* values, int count) {
    float most = 0.f;
    for (int x = 0; x < count; ++x) most = values[x] > most ? values[x] : most;
    return most;
}

SIMD Range range_of(const float* square, const float* coverage, int count) {
    float low = INF, high = -INF;
    for (int x = 0; x < count; ++x) {
        const bool there = !coverage || coverage[x] > 0.f;
        low = there && square[x] < low ? square[x] : low;
        high = there && square[x] > high ? square[x] : high;
    }
    return {low, high};
}

// Ranges of squared radii around a part of the layer, cell by cell.
class Cells {
  public:
    Cells(const Layer& layer, Block around)
        : top_(around.y0 / CELL),
          left_(around.x0 / CELL),
          across_((around.x1 - 1) / CELL - left_ + 1),
          ranges_(((around.y1 - 1) / CELL - top_ + 1) * across_) {
        for (long y = top_ * CELL; y < around.y1; ++y)
            for (long c = 0; c < across_; ++c) {
                const long x = (left_ + c) * CELL, at = y * layer.width + x;
                const int count = int(std::min<long>(CELL, layer.width - x));
                const float* coverage = layer.coverage ? layer.coverage + at : nullptr;
                Range& range = ranges_[(y / CELL - top_) * across_ + c];
                const Range row = range_of(layer.square + at, coverage, count);
                range.low = std::min(range.low, row.low);
                range.high = std::max(range.high, row.high);
            }
    }

    bool any(Block part, float below, float above) const {
        for (long y = part.y0 / CELL; y <= (part.y1 - 1) / CELL; ++y)
            for (long x = part.x0 / CELL; x <= (part.x1 - 1) / CELL; ++x) {
                const Range& range = ranges_[(y - top_) * across_ + x - left_];
                if (range.low < above && range.high > below) return true;
            }
        return false;
    }

  private:
    long top_, left_, across_;
    std::vector<Range> ranges_;
};

Block grown(Block block, long by, const Layer& layer) {
    return {std::max(block.y0 - by, 0l), std::min(block.y1 + by, layer.height),
            std::max(block.x0 - by, 0l), std::min(block.x1 + by, layer.width)};
}

}  // namespace

extern "C" {

int argan_native_version() { return 3; }

// slices.add: colour [3, h, w], coverage [h, w] or null, square [h, w]; the part y0, y1, x0, x1 of
// it is laid behind total [4, y1 - y0, x1 - x0]. Each slice has bounds (below, at, above), a reach
// and a number of rings; spans [rings, 2 reach + 1, 2] px and weights [rings] follow each other.
void argan_add_slices(const float* colour, const float* coverage, const float* square, long height,
                      long width, const long* part, long count, const float* bounds,
                      const int32_t* reaches, const int32_t* rings, const float* spans,
                      const float* weights, int front, float least, float* total,
                      long total_plane, long total_row) {
    const long plane = height * width;
    const Layer layer{colour, colour + plane, colour + 2 * plane, coverage, square, height, width};
    const Block whole{part[0], part[1], part[2], part[3]};
    std::vector<Slice> slices;
    int farthest = 0;
    for (long i = 0; i < count; ++i) {
        const float* b = bounds + 3 * i;
        slices.push_back({b[0], b[1], b[2], reaches[i],
                          taps_of(spans, weights, rings[i], reaches[i])});
        farthest = std::max(farthest, reaches[i]);
        spans += 2 * rings[i] * (2 * reaches[i] + 1);
        weights += rings[i];
    }
    const Cells cells(layer, grown(whole, farthest, layer));
    std::vector<float> sums((HIGH + 2 * farthest + 2) * ROW);
    for (long y0 = whole.y0; y0 < whole.y1; y0 += HIGH)
        for (long x0 = whole.x0; x0 < whole.x1; x0 += WIDE) {
            const Block block{y0, std::min(y0 + HIGH, whole.y1), x0, std::min(x0 + WIDE, whole.x1)};
            const int wide = int(block.x1 - x0);
            float* const corner = total + (y0 - whole.y0) * total_row + x0 - whole.x0;
            const auto row_of = [&](long y, float* (&rows)[4]) {
                for (int p = 0; p < 4; ++p) rows[p] = corner + p * total_plane + (y - y0) * total_row;
            };
            for (const Slice& slice : slices) {
                const int reach = slice.reach;
                if (!cells.any(grown(block, reach, layer), slice.below, slice.above)) continue;
                float clear = 0.f;
                for (long y = y0; y < block.y1 && clear <= CLEAR; ++y)
                    clear = most_of(corner + 3 * total_plane + (y - y0) * total_row, wide);
                if (clear <= CLEAR) break;
                float* rows[4];
                if (reach == 0) {
                    for (long y = y0; y < block.y1; ++y) {
                        row_of(y, rows);
                        lay_sharp(layer, slice, y * width + x0, front, wide, least, rows);
                    }
                    continue;
                }
                std::fill_n(sums.begin(), ROW, 0.f);
                for (long k = 0; k < block.y1 - y0 + 2 * reach + 1; ++k)
                    sum_row(layer, clamped(y0 - reach + k, height), x0 - reach, block.x1 + reach,
                            slice, front, &sums[k * ROW], &sums[(k + 1) * ROW]);
                for (long y = y0; y < block.y1; ++y) {
                    row_of(y, rows);
                    blur_row(&sums[(y - y0) * ROW], slice, wide, least, rows);
                }
            }
        }
}

}  // extern "C"

// ---------------------------------------------------------------- sizes

namespace {

struct Window {  // planes of a picture, or of a part of it
    float* planes;
    long plane, row;  // strides
    long height, width;

    float* at(long p, long y) const { return planes + p * plane + y * row; }
};

// A row of a layer times the share of a ramp, added to five rows: colours, coverage, and coverage
// times radius.
SIMD void weigh_row(const Layer& layer, long at, int count, float side, Ramp ramp, float* sums,
                    long stride) {
    const float *red = layer.red + at, *green = layer.green + at, *blue = layer.blue + at,
                *square = layer.square + at, *coverage = layer.coverage ? layer.coverage + at : 0;
    float *r = sums, *g = r + stride, *b = g + stride, *c = b + stride, *d = c + stride;
    each(count, [&] BODY {
        using V = decltype(zero);
        const V here = get<V>(square + x), share = ramp(side * here);
        const V base = coverage ? get<V>(coverage + x) * share : share;
        const V radius = root(here < 0.f ? -here : here);
        put<V>(r + x, get<V>(r + x) + get<V>(red + x) * share);
        put<V>(g + x, get<V>(g + x) + get<V>(green + x) * share);
        put<V>(b + x, get<V>(b + x) + get<V>(blue + x) * share);
        put<V>(c + x, get<V>(c + x) + base);
        put<V>(d + x, get<V>(d + x) + base * (here < 0.f ? -radius : radius));
    });
}

// out [count] = inner * (line[1] + line[2]) + outer * (line[0] + line[3])
SIMD void mix_rows(const float* const* lines, float inner, float outer, long count, float* out) {
    const float *a = lines[0], *b = lines[1], *c = lines[2], *d = lines[3];
    APART
    for (long x = 0; x < count; ++x) out[x] = inner * (b[x] + c[x]) + outer * (a[x] + d[x]);
}

// The same along a row that starts a group before: sums of `group` px, two of them a step.
SIMD void shrink_row(const float* line, int group, float inner, float outer, int count,
                     float* out) {
    if (group == 1) {
        for (int x = 0; x < count; ++x) {
            const float* l = line + 2 * x;
            out[x] = inner * (l[1] + l[2]) + outer * (l[0] + l[3]);
        }
    } else {
        for (int x = 0; x < count; ++x) {
            const float* l = line + 4 * x;
            out[x] = inner * ((l[2] + l[3]) + (l[4] + l[5])) +
                     outer * ((l[0] + l[1]) + (l[6] + l[7]));
        }
    }
}

SIMD void square_row(float* radius, const float* coverage, int count, float scale, float least) {
    APART
    for (int x = 0; x < count; ++x) {
        const float covered = scale * coverage[x];
        const float r = radius[x] / (covered > least ? covered : least);
        radius[x] = r * std::fabs(r);
    }
}

// `count` px of a row enlarged from two rows that lie around it, from px `x0` on.
SIMD void enlarge_row(const float* above, const float* below, float part, long small, int factor,
                      long x0, int count, float* line, float* out) {
    // line: the mixed row, one px more at each end; then, from `factor` floats on, enlarged
    const long first = std::max((x0 - factor / 2) / factor - 1, 0l);
    const long last = std::min((x0 + count) / factor + 1, small - 1);
    float* mixed = line + 1;
    for (long x = first; x <= last; ++x) mixed[x] = above[x] + part * (below[x] - above[x]);
    mixed[first - 1] = mixed[first];
    mixed[last + 1] = mixed[last];
    float* large = line + small + 4;  // large[0] is px factor * (first - 1) + factor / 2
    const long n = last - first + 2;
    const float* from = mixed + first - 1;
    if (factor == 2) {
        for (long i = 0; i < n; ++i) {
            const float a = from[i], d = from[i + 1] - a;
            large[2 * i] = a + 0.25f * d;
            large[2 * i + 1] = a + 0.75f * d;
        }
    } else {
        for (long i = 0; i < n; ++i) {
            const float a = from[i], d = from[i + 1] - a;
            large[4 * i] = a + 0.125f * d;
            large[4 * i + 1] = a + 0.375f * d;
            large[4 * i + 2] = a + 0.625f * d;
            large[4 * i + 3] = a + 0.875f * d;
        }
    }
    std::memcpy(out, large + x0 - (factor * (first - 1) + factor / 2), count * sizeof(float));
}

// total: three colours and what is clear; `deeper` [planes]: the same, or all that is behind.
SIMD void under_row(float* const* total, const float* const* deeper, int planes, int count) {
    float *r = total[0], *g = total[1], *b = total[2], *clear = total[3];
    const float *dr = deeper[0], *dg = deeper[1], *db = deeper[2], *dc = deeper[3];
    each(count, [&] BODY {
        using V = decltype(zero);
        const V c = get<V>(clear + x);
        put<V>(r + x, get<V>(r + x) + c * get<V>(dr + x));
        put<V>(g + x, get<V>(g + x) + c * get<V>(dg + x));
        put<V>(b + x, get<V>(b + x) + c * get<V>(db + x));
        put<V>(clear + x, planes == 3 ? zero : c * get<V>(dc + x));
    });
}

}  // namespace

extern "C" {

// planes.shrink: colour [3, h, w], coverage [h, w] or null, square [h, w] -> layer [4, n, m], square
// [n, m], which begin at (y0, x0) and are `factor`, 2 or 4, times as small.
void argan_shrink(const float* colour, const float* coverage, const float* square, long height,
                  long width, long y0, long x0, float side, float low, float high, int factor,
                  int smooth, float least, float* out_layer, float* out_square, long n, long m,
                  long out_plane, long out_row) {
    const long plane = height * width;
    const Layer layer{colour, colour + plane, colour + 2 * plane, coverage, square, height, width};
    const Ramp ramp(low, high);
    const int group = factor / 2;
    const float unit = 1.f / factor, inner = smooth ? 0.75f * unit : unit, outer = unit - inner;
    // Sums of `group` rows, four at a time, then one row mixed of them with its ends drawn out.
    const long stride = width + 3 * factor;
    std::vector<float> ring(4 * PLANES * width), mixed(PLANES * stride);
    const auto group_row = [&](long j) { return &ring[((j % 4 + 4) % 4) * PLANES * width]; };
    long ready = std::numeric_limits<long>::min();
    for (long q = 0; q < n; ++q) {
        for (long j = std::max(2 * q - 1, ready); j <= 2 * q + 2; ++j) {
            float* sums = group_row(j);
            std::fill_n(sums, PLANES * width, 0.f);
            for (int i = 0; i < group; ++i)
                weigh_row(layer, clamped(y0 + group * j + i, height) * width, int(width), side,
                          ramp, sums, width);
        }
        ready = 2 * q + 3;
        for (int p = 0; p < PLANES; ++p) {
            float* line = &mixed[p * stride];
            const float* lines[4];
            for (int k = 0; k < 4; ++k) lines[k] = group_row(2 * q - 1 + k) + p * width;
            mix_rows(lines, inner, outer, width, line + factor);
            std::fill_n(line, factor, line[factor]);
            std::fill_n(line + factor + width, 2 * factor, line[factor + width - 1]);
            float* out = p < 4 ? out_layer + p * out_plane + q * out_row : out_square + q * out_row;
            shrink_row(line + factor + x0 - group, group, inner, outer, int(m), out);
        }
        square_row(out_square + q * out_row, out_layer + 3 * out_plane + q * out_row, int(m),
                   float(factor), least);
    }
}

// planes.enlarged, planes.lay_under: planes [n, h, w], 3 or 4 of them if `under`, `factor` times
// as large, from (y0, x0) on, into total [.., H, W].
void argan_enlarge(const float* planes, long n, long h, long w, int factor, long y0, long x0,
                    float* total, long height, long width, long total_plane, long total_row,
                    int under) {
    std::vector<float> line(w + 8 + (width + 6 * factor) + 8 + factor * 4), large(n * width);
    for (long y = 0; y < height; ++y) {
        // Twice the middle of a row, in rows of the small planes times `factor`.
        const long twice = 2 * (y0 + y) + 1 - factor, above = (twice + 2 * factor) / (2 * factor) - 1;
        const float part = float(twice - 2 * factor * above) / float(2 * factor);
        const float* rows[4] = {};
        for (long p = 0; p < n; ++p) {
            float* out = under ? &large[p * width] : total + p * total_plane + y * total_row;
            rows[p] = out;
            enlarge_row(planes + (p * h + clamped(above, h)) * w,
                        planes + (p * h + clamped(above + 1, h)) * w, part, w, factor, x0,
                        int(width), line.data(), out);
        }
        if (!under) continue;
        float* into[4];
        for (int p = 0; p < 4; ++p) into[p] = total + p * total_plane + y * total_row;
        under_row(into, rows, int(n), int(width));
    }
}

}  // extern "C"

// ---------------------------------------------------------------- hidden surfaces

namespace {

// 1 for a surface at the farthest radius, less from `hides` px nearer on, `least` from twice that.
template <class V>
INLINE V belongs(V radius, V farthest, float hides, float least) {
    return within<V>(2.f - (radius - farthest) / hides, V{} + least, V{} + 1.f);
}

SIMD void keep_farthest(const float* const* around, int count, float hides, float* const* own) {
    each(count, [&] BODY {
        using V = decltype(zero);
        const V far = get<V>(around[3] + x);
        const V part = belongs<V>(get<V>(own[3] + x), far, hides, 0.f);
        for (int p = 0; p < 4; ++p) {
            const V there = get<V>(around[p] + x);
            put<V>(own[p] + x, there + part * (get<V>(own[p] + x) - there));
        }
    });
}

}  // namespace

extern "C" {

// planes.farthest_of_four: surfaces [4, h, w], colour and radius -> half [4, h / 2, w / 2].
void argan_farthest_of_four(const float* surfaces, long h, long w, float hides, float least,
                            float* half) {
    const long n = (h + 1) / 2, m = (w + 1) / 2;
    for (long y = 0; y < n; ++y)
        for (long x = 0; x < m; ++x) {
            const long up = 2 * y * w, down = clamped(2 * y + 1, h) * w;
            const long left = 2 * x, right = clamped(2 * x + 1, w);
            const long at[4] = {up + left, up + right, down + left, down + right};
            const float* radius = surfaces + 3 * h * w;
            float lowest = radius[at[0]], sum = 0.f, weights[4];
            for (int k = 1; k < 4; ++k) lowest = std::min(lowest, radius[at[k]]);
            for (int k = 0; k < 4; ++k)
                sum += weights[k] = belongs(radius[at[k]], lowest, hides, least);
            for (int p = 0; p < 4; ++p) {
                float mean = 0.f;
                for (int k = 0; k < 4; ++k) mean += weights[k] * surfaces[p * h * w + at[k]];
                half[(p * n + y) * m + x] = mean / sum;
            }
        }
}

// planes.keep_farthest: surfaces [4, h, w], which change, and what is around, at half size.
void argan_keep_farthest(float* surfaces, long h, long w, const float* around, float hides) {
    const long n = (h + 1) / 2, m = (w + 1) / 2;
    std::vector<float> large(4 * w);
    const float* rows[4];
    float* own[4];
    for (long y = 0; y < h; ++y) {
        for (int p = 0; p < 4; ++p) {
            rows[p] = &large[p * w];
            own[p] = surfaces + (p * h + y) * w;
        }
        argan_enlarge(around, 4, n, m, 2, y, 0, large.data(), 1, w, w, w, 0);
        keep_farthest(rows, int(w), hides, own);
    }
}

}  // extern "C"

// ---------------------------------------------------------------- light and radius

namespace {

SIMD void decode_row(const uint8_t* pixels, const float* table, int count, float* red, float* green,
                     float* blue) {
    APART
    for (int x = 0; x < count; ++x) {
        red[x] = table[pixels[3 * x]];
        green[x] = table[pixels[3 * x + 1]];
        blue[x] = table[pixels[3 * x + 2]];
    }
}

SIMD void levels_of(const float* light, int count, float top, int32_t* levels) {
    APART
    for (int x = 0; x < count; ++x) {
        const float inside = light[x] > 0.f ? (light[x] < 1.f ? light[x] : 1.f) : 0.f;
        levels[x] = int32_t(std::sqrt(inside) * top + 0.5f);
    }
}

SIMD Range squared_row(const float* disparity, int count, float focus, float blur, float limit,
                       float* square) {
    Vector low = Vector{} + INF, high = Vector{} - INF;
    each(count, [&] BODY {
        using V = decltype(zero);
        const V d = within<V>((get<V>(disparity + x) - focus) * blur, zero - limit, zero + limit);
        const V s = d * (d < 0.f ? -d : d);
        put<V>(square + x, s);
        low = s < low ? s + Vector{} : low;
        high = s > high ? s + Vector{} : high;
    });
    Range range;
    range.join(low, high);
    return range;
}

SIMD bool extremes(const float* values, long count, Range* range) {
    const Vector zero{};
    Vector low = zero + INF, high = zero - INF, wrong = zero;
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vector value = load(values + i);
        low = value < low ? value : low;
        high = value > high ? value : high;
        wrong += value - value;  // NaN, where a value is not finite
    }
    bool finite = true;
    range->join(low, high);
    for (int k = 0; k < LANES; ++k) finite &= wrong[k] == 0.f;
    for (; i < count; ++i) {
        range->low = std::min(range->low, values[i]);
        range->high = std::max(range->high, values[i]);
        finite &= std::isfinite(values[i]);
    }
    return finite;
}

}  // namespace

extern "C" {

// planes.extremes: range [2]; whether all values are finite.
int argan_extremes(const float* values, long count, float* range) {
    Range found;
    const bool finite = extremes(values, count, &found);
    range[0] = found.low;
    range[1] = found.high;
    return finite;
}

// planes.squared: disparity [h, w] with a stride -> square [h, w], range [2] of it.
void argan_squared(const float* disparity, long stride, long height, long width, float focus,
                   float blur, float limit, float* square, float* range) {
    Range found;
    for (long y = 0; y < height; ++y) {
        const Range row = squared_row(disparity + y * stride, int(width), focus, blur, limit,
                                      square + y * width);
        found.low = std::min(found.low, row.low);
        found.high = std::max(found.high, row.high);
    }
    range[0] = found.low;
    range[1] = found.high;
}

// planes.decoded: pixels [h, w, 3], table [256] -> light [3, h, w].
void argan_decode(const uint8_t* pixels, long stride, long height, long width, const float* table,
                  float* light) {
    const long plane = height * width;
    for (long y = 0; y < height; ++y, light += width)
        decode_row(pixels + y * stride, table, int(width), light, light + plane, light + 2 * plane);
}

// highlights.Recovery.apply: pixels [h, w, 3] from row `top` and column `left` of the photo, around
// [rows, columns, 4] with `step` px of it for one of the photo's, light [3, h, w].
void argan_recover(const uint8_t* pixels, long stride, long height, long width, const float* around,
                   long rows, long columns, float step, long top, long left, float most,
                   float* light) {
    constexpr uint8_t white = 255;
    const long plane = height * width;
    for (long y = 0; y < height; ++y, pixels += stride, light += width) {
        const uint8_t *end = pixels + 3 * width, *found = pixels;
        const float v = (float(y + top) + 0.5f) * step - 0.5f;
        const long above = long(std::floor(v));
        const float* lines[2];
        for (int k = 0; k < 2; ++k) lines[k] = around + 4 * columns * clamped(above + k, rows);
        while (found < end &&
               (found = static_cast<const uint8_t*>(std::memchr(found, white, end - found)))) {
            const long x = (found - pixels) / 3;
            const uint8_t* pixel = pixels + 3 * x;
            found = pixel + 3;
            const float u = (float(x + left) + 0.5f) * step - 0.5f;
            const long before = long(std::floor(u));
            const int a = 4 * clamped(before, columns), b = 4 * clamped(before + 1, columns);
            float guess[4], product = 0.f, norm = 0.f;
            for (int p = 0; p < 4; ++p) {
                const float upper = lines[0][a + p] + (u - before) * (lines[0][b + p] - lines[0][a + p]);
                const float lower = lines[1][a + p] + (u - before) * (lines[1][b + p] - lines[1][a + p]);
                guess[p] = upper + (v - above) * (lower - upper);
            }
            bool every = true;
            for (int p = 0; p < 3; ++p) {
                if (pixel[p] == white) continue;
                every = false;
                product += guess[p] * light[p * plane + x];
                norm += guess[p] * guess[p];
            }
            const float fit = product / std::max(norm, 1e-6f);
            for (int p = 0; p < 3; ++p)
                if (pixel[p] == white)
                    light[p * plane + x] =
                        every ? 1.f + guess[3] : std::min(std::max(fit * guess[p], 1.f), most);
        }
    }
}

// planes.encode: light [3, h, w], table [levels] by the square root of the light -> pixels
// [h, w, 3].
void argan_encode(const float* light, long plane, long row, long height, long width,
                  const uint8_t* table, long levels, uint8_t* pixels, long stride) {
    std::vector<int32_t> at(3 * width);
    for (long y = 0; y < height; ++y, light += row, pixels += stride) {
        for (int p = 0; p < 3; ++p)
            levels_of(light + p * plane, int(width), float(levels - 1), &at[p * width]);
        for (long x = 0; x < width; ++x)
            for (int p = 0; p < 3; ++p) pixels[3 * x + p] = table[at[p * width + x]];
    }
}

}  // extern "C"

// ---------------------------------------------------------------- the light field

namespace {

typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));

constexpr int PIECE = 256;  // px of a row: all views of them, then the next

// Where pixels of a row look in one view: four px of the image and the place between them.
struct Places {
    int32_t upper_left[PIECE], upper_right[PIECE], lower_left[PIECE], lower_right[PIECE];
    float right[PIECE], down[PIECE];
};

// Pixels x0 to x0 + count of row y.
SIMD void places_of(const float* disparity, int count, float u, float v, int x0, int y, int height,
                    int width, Places& places) {
    const float wide = float(width), high = float(height);  // farther is the edge all the same
    APART
    for (int x = 0; x < count; ++x) {
        const float across = within(u * disparity[x], -wide, wide);
        const float down = within(v * disparity[x], -high, high);
        const float whole_across = std::floor(across), whole_down = std::floor(down);
        const int column = x0 + x + int32_t(whole_across), row = y + int32_t(whole_down);
        const int left = std::min(std::max(column, 0), width - 1);
        const int right = std::min(std::max(column + 1, 0), width - 1);
        const int upper = width * std::min(std::max(row, 0), height - 1);
        const int lower = width * std::min(std::max(row + 1, 0), height - 1);
        places.upper_left[x] = upper + left;
        places.upper_right[x] = upper + right;
        places.lower_left[x] = lower + left;
        places.lower_right[x] = lower + right;
        places.right[x] = across - whole_across;
        places.down[x] = down - whole_down;
    }
}

SIMD void add_view(const Pixel* image, const Places& places, int count, float weight, Pixel* sum) {
    for (int x = 0; x < count; ++x) {
        const Pixel a = image[places.upper_left[x]], b = image[places.upper_right[x]];
        const Pixel c = image[places.lower_left[x]], d = image[places.lower_right[x]];
        const Pixel top = a + places.right[x] * (b - a), bottom = c + places.right[x] * (d - c);
        sum[x] += weight * (top + places.down[x] * (bottom - top));
    }
}

}  // namespace

extern "C" {

// slices.spans of several radii px, each with a reach and a number of rings: of the pupil that discs
// [disc_count, 3] (right, down, radius, in pupil radii) have in common, with the light that each
// ring adds -> spans and weights, one radius after the other.
void argan_spans(const double* radii, const int32_t* reaches, const int32_t* rings, long count,
                 const double* discs, long disc_count, const double* light, long fine,
                 float* spans, float* weights) {
    for (long i = 0; i < count; ++i) {
        if (radii[i] == 0) {  // one px, not blurred
            *spans++ = -0.5f;
            *spans++ = 0.5f;
            *weights++ = 1.f;
            continue;
        }
        double sum = 0;
        for (long ring = 0; ring < rings[i]; ++ring) {
            const double size = radii[i] * double(ring + 1) / double(rings[i]);
            for (long column = -reaches[i]; column <= reaches[i]; ++column) {
                double length = 0, moment = 0;
                for (long k = 0; k < fine; ++k) {
                    const double x = double(column) + (double(k) + 0.5) / double(fine) - 0.5;
                    double top = -double(INF), bottom = double(INF);
                    for (const double* disc = discs; disc != discs + 3 * disc_count; disc += 3) {
                        const double off = x - size * disc[0], middle = size * disc[1];
                        const double squared = size * disc[2] * (size * disc[2]) - off * off;
                        const double half = squared > 0 ? std::sqrt(squared) : -double(INF);
                        top = std::max(top, middle - half);
                        bottom = std::min(bottom, middle + half);
                    }
                    if (bottom <= top) continue;
                    length += (bottom - top) / double(fine);
                    moment += (bottom - top) / double(fine) * (top + bottom) / 2;
                }
                const double middle = moment / std::max(length, 1e-9);
                *spans++ = float(middle - length / 2);
                *spans++ = float(middle + length / 2);
                sum += light[ring] * length;
            }
        }
        for (long ring = 0; ring < rings[i]; ++ring) *weights++ = float(light[ring] / sum);
    }
}

// render.light_field: image [height, width, 4], disparity px [views or 1, rows, width] with the
// stride of a view, samples [views, 3] (u, v, weight) -> sum [rows, width, 4] of the views of rows
// `first` and following of the image.
void argan_light_field(const float* image, long height, long width, const float* disparity,
                       long stride, long first, long rows, const float* samples, long views,
                       float* sum) {
    const Pixel* pixels = reinterpret_cast<const Pixel*>(image);
    Places places;
    for (long y = 0; y < rows; ++y)
        for (long x = 0; x < width; x += PIECE) {
            const int count = int(std::min<long>(PIECE, width - x));
            Pixel* out = reinterpret_cast<Pixel*>(sum) + y * width + x;
            std::memset(out, 0, count * sizeof(Pixel));
            for (long i = 0; i < views; ++i) {
                const float* s = samples + 3 * i;
                places_of(disparity + i * stride + y * width + x, count, s[0], s[1], int(x),
                          int(first + y), int(height), int(width), places);
                add_view(pixels, places, count, s[2], out);
            }
        }
}

}  // extern "C"
