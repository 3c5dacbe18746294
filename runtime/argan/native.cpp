// The inner loops of the lens. Each function has its reference in NumPy and OpenCV: see
// `slices.py` and `planes.py`.
//
// A pupil is one span per column, so that a blur by it is a difference of two running sums per
// column: a pixel costs O(radius), not O(radius^2). Planes are dense float arrays.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define SIMD __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define SIMD
#endif

// The planes of a loop never overlap.
#if defined(__clang__)
#define APART _Pragma("clang loop vectorize(assume_safety)")
#else
#define APART _Pragma("GCC ivdep")
#endif

namespace {

constexpr int PLANES = 5;   // premultiplied red, green, blue; share; what is not hidden
constexpr int REBASE = 64;  // rows after which running sums start anew: they stay small and exact
constexpr float CLEAR = 1e-4f;  // less than that is not seen

constexpr int CHUNK = 32;  // px blurred at once; rows have room for as many more

typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
inline const Vector& load(const float* at) { return *reinterpret_cast<const Vector*>(at); }

struct Extent {
    int begin, end;

    bool empty() const { return begin >= end; }
    void join(Extent other) {
        if (other.empty()) return;
        if (empty()) *this = other;
        begin = std::min(begin, other.begin);
        end = std::max(end, other.end);
    }
    Extent grown(int by, int width) const {
        return empty() ? *this : Extent{std::max(begin - by, 0), std::min(end + by, width)};
    }
};

// 0 up to one squared radius, 1 from another on; constant where there is no such slice.
struct Ramp {
    float low, slope, start;

    Ramp(float from, float to)
        : low(std::isinf(from) || std::isinf(to) ? 0.f : from),
          slope(std::isinf(from) || std::isinf(to) ? 0.f : 1.f / (to - from)),
          start(std::isinf(from) ? 1.f : 0.f) {}

    inline float operator()(float square) const {
        const float v = (square - low) * slope + start;
        return v < 0.f ? 0.f : v > 1.f ? 1.f : v;
    }
};

// One end of a column of the pupil: between which two rows of sums it lies.
struct End {
    int row;
    float part;
};

// Where a row has any of the slice.
SIMD Extent taken(const float* square, const float* base, int width, float below, float above) {
    Extent found{width, 0};
    constexpr int STEP = 32;
    for (int x = 0; x < width; x += STEP) {
        const int count = std::min(STEP, width - x);
        int any = 0;
        for (int k = 0; k < count; ++k)
            any |= (square[x + k] > below) & (square[x + k] < above) & (base[x + k] > 0.f);
        if (any) {
            found.begin = std::min(found.begin, x);
            found.end = x + count;
        }
    }
    return found;
}

SIMD Extent still_clear(const float* clear, Extent within) {
    constexpr int STEP = 32;
    Extent found{within.end, within.begin};
    for (int x = within.begin; x < within.end; x += STEP) {
        const int count = std::min(STEP, within.end - x);
        float most = 0.f;
        for (int k = 0; k < count; ++k) most = std::max(most, clear[x + k]);
        if (most > CLEAR) {
            found.begin = std::min(found.begin, x);
            found.end = x + count;
        }
    }
    return found;
}

// The slice's five planes of one row.
SIMD void slice_row(const float* const* layer, const float* square, Extent part, Ramp at,
                    Ramp above, int front, float* const* out) {
    const float *red = layer[0], *green = layer[1],
                *blue = layer[2], *base = layer[3];
    float *r = out[0], *g = out[1], *b = out[2],
          *s = out[3], *u = out[4];
    APART
    for (int x = part.begin; x < part.end; ++x) {
        const float nearer = above(square[x]), share = at(square[x]) - nearer;
        r[x] = red[x] * share;
        g[x] = green[x] * share;
        b[x] = blue[x] * share;
        s[x] = base[x] * share;
        u[x] = (front ? 1.f : base[x]) - base[x] * nearer;
    }
}

// The same, added to the sums of all rows above.
SIMD void sum_row(const float* const* layer, const float* square, Extent part, Ramp at, Ramp above,
                  int front, const float* const* before, float* const* sum) {
    const float *red = layer[0], *green = layer[1],
                *blue = layer[2], *base = layer[3];
    float *r = sum[0], *g = sum[1], *b = sum[2],
          *s = sum[3], *u = sum[4];
    const float *r0 = before[0], *g0 = before[1], *b0 = before[2],
                *s0 = before[3], *u0 = before[4];
    APART
    for (int x = part.begin; x < part.end; ++x) {
        const float nearer = above(square[x]), share = at(square[x]) - nearer;
        r[x] = r0[x] + red[x] * share;
        g[x] = g0[x] + green[x] * share;
        b[x] = b0[x] + blue[x] * share;
        s[x] = s0[x] + base[x] * share;
        u[x] = u0[x] + ((front ? 1.f : base[x]) - base[x] * nearer);
    }
}

// A row of sums goes on to both sides as at the photo's edge.
void extend(float* sum, int width, Extent part, int pad) {
    if (part.begin == 0)
        for (int k = 1; k <= pad; ++k) sum[-k] = sum[0];
    if (part.end == width)
        for (int k = 0; k < pad; ++k) sum[width + k] = sum[width - 1];
}

// blurred [count] = sum over columns of weight * (sums at the column's bottom - at its top).
SIMD void gather(const float* const* top0, const float* const* top1, const float* const* bottom0,
                 const float* const* bottom1, const float* factors, int columns, long offset,
                 int count, float* blurred) {
    for (int x = 0; x < count; x += CHUNK) {
        Vector sum[CHUNK / 8] = {};
        for (int c = 0; c < columns; ++c) {
            const long at = offset + x;
            const float *f = factors + 4 * c, *t = top0[c] + at, *u = top1[c] + at,
                        *b = bottom0[c] + at, *d = bottom1[c] + at;
            for (int k = 0; k < CHUNK / 8; ++k)
                sum[k] += f[2] * load(b + 8 * k) + f[3] * load(d + 8 * k) - f[0] * load(t + 8 * k) -
                          f[1] * load(u + 8 * k);
        }
        for (int k = 0; k < CHUNK / 8; ++k)
            *reinterpret_cast<Vector*>(blurred + x + 8 * k) = sum[k];
    }
}

SIMD void lay_behind(const float* const* blurred, int count, float least, float* const* total) {
    const float *br = blurred[0], *bg = blurred[1],
                *bb = blurred[2], *bs = blurred[3],
                *bu = blurred[4];
    float *r = total[0], *g = total[1], *b = total[2],
          *clear = total[3];
    APART
    for (int x = 0; x < count; ++x) {
        const float weight = clear[x] / (bu[x] > least ? bu[x] : least);
        r[x] += weight * br[x];
        g[x] += weight * bg[x];
        b[x] += weight * bb[x];
        const float left = clear[x] - weight * bs[x];
        clear[x] = left > 0.f ? (left < 1.f ? left : 1.f) : 0.f;
    }
}

}  // namespace

extern "C" {

int argan_native_version() { return 1; }

// slices.add: layer [4, h, w], square [h, w], total [4, h, w]; spans [rings, columns, 2] px,
// weights [rings]; columns = 2 reach + 1.
void argan_add_slice(const float* layer, const float* square, long height, long width, float below,
                     float at, float above, int front, const float* spans, const float* weights,
                     long rings, long reach, float least, float* total) {
    const size_t plane = size_t(height) * size_t(width);
    const Ramp here(below, at), nearer(at, above);
    const int w = int(width), h = int(height), R = int(reach);
    const auto row_of = [&](const float* planes, int p, int y) {
        return planes + p * plane + size_t(y) * w;
    };
    // Where the slice is, where its blur is seen, and what that is made of.
    std::vector<Extent> own(h), out(h), need(h);
    bool any = false;
    for (int y = 0; y < h; ++y) {
        own[y] = taken(square + size_t(y) * w, row_of(layer, 3, y), w, below, above);
        any |= !own[y].empty();
    }
    if (!any) return;
    std::vector<float> blurred(size_t(PLANES) * (w + CHUNK));
    if (R == 0) {  // no blur: exact, without sums
        for (int y = 0; y < h; ++y) {
            const float *source[4], *from[PLANES];
            float *row[PLANES], *to[4];
            for (int p = 0; p < PLANES; ++p) {
                row[p] = blurred.data() + size_t(p) * (w + CHUNK);
                from[p] = row[p] + own[y].begin;
            }
            for (int p = 0; p < 4; ++p) {
                source[p] = row_of(layer, p, y);
                to[p] = total + p * plane + size_t(y) * w + own[y].begin;
            }
            slice_row(source, square + size_t(y) * w, own[y], here, nearer, front, row);
            lay_behind(from, own[y].end - own[y].begin, least, to);
        }
        return;
    }
    any = false;
    for (int y = 0; y < h; ++y) {
        Extent seen{w, 0};
        for (int v = std::max(y - R, 0); v <= std::min(y + R, h - 1); ++v) seen.join(own[v]);
        if (!seen.empty()) seen = still_clear(row_of(total, 3, y), seen.grown(R + 1, w));
        out[y] = seen;
        any |= !seen.empty();
    }
    if (!any) return;
    for (int v = 0; v < h; ++v) {
        Extent part{w, 0};
        for (int y = std::max(v - R - 1, 0); y <= std::min(v + R + 1, h - 1); ++y)
            part.join(out[y]);
        need[v] = part.grown(R + 1, w);
    }
    // Sums up to and with row v lie in place (v + 1) % places; those of the row before the first
    // are zero. Beyond the photo its first and last row go on.
    const int places = 2 * R + 4, pad = R + CHUNK, length = w + 2 * pad;
    std::vector<float> ring(size_t(places) * PLANES * length, 0.f);
    const auto sums = [&](int v, int p) {
        const int place = ((v + 1) % places + places) % places;
        return ring.data() + (size_t(place) * PLANES + p) * length + pad;
    };
    const int columns = 2 * R + 1;
    std::vector<End> tops, bottoms;
    std::vector<float> factors;
    std::vector<int> shift;
    for (long k = 0; k < rings; ++k)
        for (int c = 0; c < columns; ++c) {
            const float* span = spans + (size_t(k) * columns + c) * 2;
            if (span[1] <= span[0]) continue;
            // The sums with row v reach to the row's lower edge, half a px below its middle.
            const float top = span[0] - 0.5f, bottom = span[1] - 0.5f;
            const int t = int(std::floor(top)), b = int(std::floor(bottom));
            tops.push_back({t, top - float(t)});
            bottoms.push_back({b, bottom - float(b)});
            shift.push_back(c - R);
            const float tf = top - float(t), bf = bottom - float(b), weight = weights[k];
            factors.insert(factors.end(),
                           {weight * (1 - tf), weight * tf, weight * (1 - bf), weight * bf});
        }
    const int used = int(shift.size());
    std::vector<const float*> t0(used), t1(used), b0(used), b1(used);
    int ready = -R - 3;  // the last row whose sums are there
    int based = ready;
    for (int y = 0; y < h; ++y) {
        if (out[y].empty()) continue;
        if (ready < y - R - 2) {  // nothing of the rows between is needed: start anew
            ready = y - R - 2;
            based = ready;
            for (int p = 0; p < PLANES; ++p) std::fill_n(sums(ready, p) - pad, length, 0.f);
        }
        for (; ready < y + R + 1; ++ready) {
            const int v = ready + 1, inside = std::min(std::max(v, 0), h - 1);
            Extent part = need[inside];
            // A row that nothing needs: its sums are those before it.
            const float *before[PLANES], *source[4];
            float* sum[PLANES];
            for (int p = 0; p < PLANES; ++p) {
                before[p] = sums(v - 1, p);
                sum[p] = sums(v, p);
            }
            for (int p = 0; p < 4; ++p) source[p] = row_of(layer, p, inside);
            if (v - based >= REBASE) {
                for (int q = v - 2 * R - 2; q < v; ++q)
                    for (int p = 0; p < PLANES; ++p) {
                        const float* last = sums(v - 2 * R - 3, p) - pad;
                        float* other = sums(q, p) - pad;
                        for (int k = 0; k < length; ++k) other[k] -= last[k];
                    }
                based = v;
            }
            if (part.begin > 0 || part.end < w || part.empty())
                for (int p = 0; p < PLANES; ++p)
                    std::memcpy(sum[p] - pad, before[p] - pad, length * sizeof(float));
            if (part.empty()) continue;
            sum_row(source, square + size_t(inside) * w, part, here, nearer, front, before, sum);
            for (int p = 0; p < PLANES; ++p) extend(sum[p], w, part, pad);
        }
        const int begin = out[y].begin, count = out[y].end - begin;
        const float* from[PLANES];
        float* to[4];
        for (int p = 0; p < PLANES; ++p) {
            for (int c = 0; c < used; ++c) {
                t0[c] = sums(y + tops[c].row, p) + shift[c];
                t1[c] = sums(y + tops[c].row + 1, p) + shift[c];
                b0[c] = sums(y + bottoms[c].row, p) + shift[c];
                b1[c] = sums(y + bottoms[c].row + 1, p) + shift[c];
            }
            gather(t0.data(), t1.data(), b0.data(), b1.data(), factors.data(), used, begin, count,
                   blurred.data() + size_t(p) * (w + CHUNK));
            from[p] = blurred.data() + size_t(p) * (w + CHUNK);
        }
        for (int p = 0; p < 4; ++p) to[p] = total + p * plane + size_t(y) * w + begin;
        lay_behind(from, count, least, to);
    }
}

}  // extern "C"
