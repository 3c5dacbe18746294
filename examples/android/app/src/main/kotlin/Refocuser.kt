// Not built and not run: there was no Android SDK. Written to the documentation; see README.md.
package org.example.argan

import android.content.ContentResolver
import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import android.graphics.Rect
import android.net.Uri
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import kotlin.math.ceil
import kotlin.math.log10
import kotlin.math.max
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.withContext

/** The refocus graph of the bundle. Everything runs off the main thread, one picture at a time. */
@OptIn(ExperimentalCoroutinesApi::class)
class Refocuser private constructor(assets: AssetManager) : AutoCloseable {
    /** disparity [H * W], larger = nearer; 0 and 1 are the ends of a typical photo */
    class Output(val bitmap: Bitmap, val disparity: FloatArray)

    val bundle = ModelBundle(assets)
    private val model =
        CompiledModel.create(assets, bundle.model, CompiledModel.Options(Accelerator.CPU))
    private val signature = "s${bundle.height}x${bundle.width}"
    private val inputs =
        listOf("image", "focus", "blur").associateWith { model.createInputBuffer(it, signature) }
    private val outputs =
        listOf("bokeh", "disparity").associateWith { model.createOutputBuffer(it, signature) }

    /**
     * photo    a bitmap of the bundle's size
     * focus    the disparity that is sharp
     * fNumber  by argan's convention (optics.py): at f/1.8, one unit of disparity blurs to a disc
     *          with a radius of 2 % of the width
     */
    suspend fun refocus(photo: Bitmap, focus: Float, fNumber: Float): Output = withContext(worker) {
        val blur = 0.02f * bundle.width * 1.8f / fNumber
        val (bokeh, disparity) = run(values(photo), focus, blur)
        Output(bitmap(bokeh), disparity)
    }

    /**
     * golden.npz on this phone: what was found, or, where that misses the limit, a Problem. It goes
     * through a bitmap, as photos do, so that an order of channels gone wrong would be seen.
     */
    suspend fun check(): String = withContext(worker) {
        val golden = bundle.golden()
        fun picture(name: String, channels: Int) =
            pixels(golden.values(name, 1, channels, bundle.height, bundle.width), channels)
        val image = picture("refocus_image", 3) // of 8 bits, exactly
        val focus = golden.values("focus", 1)[0]
        val blur = golden.values("blur", 1)[0]
        val (bokeh, disparity) = run(values(bitmap(image)), focus, blur)
        val bokehPsnr = psnr(bokeh, picture("bokeh", 3))
        val disparityPsnr = psnr(disparity, picture("refocus_disparity", 1))
        val limit = ModelBundle.MIN_PSNR.getValue(bundle.precision)
        val found = "bokeh %.1f dB, disparity %.1f dB to PyTorch; at least %.0f dB wanted"
            .format(bokehPsnr, disparityPsnr, limit)
        val passed = bokehPsnr >= limit && disparityPsnr >= limit // false for NaN
        if (!passed) throw Problem(found)
        found
    }

    /**
     * The middle of a photo, filling the bundle's size. It is decoded at that size, so that 48 MP
     * don't fill the memory; the decoder turns it as EXIF says, and brings it from its own profile
     * (often Display P3) to sRGB, which is what the network has learnt from.
     */
    suspend fun open(resolver: ContentResolver, photo: Uri): Bitmap = withContext(worker) {
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, photo)) { decoder, info, _ ->
            val (w, h) = info.size.width to info.size.height // upright
            val scale = max(bundle.width.toDouble() / w, bundle.height.toDouble() / h)
            val scaledWidth = max(bundle.width, ceil(w * scale - 1e-6).toInt())
            val scaledHeight = max(bundle.height, ceil(h * scale - 1e-6).toInt())
            decoder.setTargetSize(scaledWidth, scaledHeight)
            val left = (scaledWidth - bundle.width) / 2
            val top = (scaledHeight - bundle.height) / 2
            decoder.crop = Rect(left, top, left + bundle.width, top + bundle.height)
            decoder.setTargetColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // pixels can be read
        }
    }

    /** The median around a place in px, as `argan refocus --focus X,Y` takes it. */
    fun disparityNear(disparity: FloatArray, x: Int, y: Int): Float {
        val reach = max(1, minOf(bundle.height, bundle.width) / 100)
        val around = buildList {
            for (row in y - reach..y + reach) for (column in x - reach..x + reach) {
                if (row in 0..<bundle.height && column in 0..<bundle.width) {
                    add(disparity[row * bundle.width + column])
                }
            }
        }
        return around.sorted()[around.size / 2]
    }

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
    }

    /** image [H * W * 3], RGB in 0..1 -> bokeh, likewise, and disparity [H * W]. */
    private fun run(image: FloatArray, focus: Float, blur: Float): Pair<FloatArray, FloatArray> {
        inputs.getValue("image").writeFloat(image)
        inputs.getValue("focus").writeFloat(floatArrayOf(focus))
        inputs.getValue("blur").writeFloat(floatArrayOf(blur))
        model.run(inputs, outputs, signature)
        return outputs.getValue("bokeh").readFloat() to outputs.getValue("disparity").readFloat()
    }

    /** A bitmap's pixels are read as ARGB in one Int each, whatever it has in memory. */
    private fun values(photo: Bitmap): FloatArray {
        val colours = IntArray(bundle.height * bundle.width)
        photo.getPixels(colours, 0, bundle.width, 0, 0, bundle.width, bundle.height)
        return FloatArray(3 * colours.size) { i ->
            (colours[i / 3] shr (16 - 8 * (i % 3)) and 255) / 255f
        }
    }

    private fun bitmap(values: FloatArray): Bitmap {
        fun level(i: Int) = (values[i] * 255 + 0.5f).toInt().coerceIn(0, 255) // NaN becomes 0
        val colours = IntArray(values.size / 3) { i ->
            255 shl 24 or (level(3 * i) shl 16) or (level(3 * i + 1) shl 8) or level(3 * i + 2)
        }
        return Bitmap.createBitmap(colours, bundle.width, bundle.height, Bitmap.Config.ARGB_8888)
    }

    /** Planes [C, H, W], as golden.npz has them -> pixels [H, W, C], as TFLite has them. */
    private fun pixels(planes: FloatArray, channels: Int): FloatArray {
        val count = planes.size / channels
        return FloatArray(planes.size) { i -> planes[i % channels * count + i / channels] }
    }

    companion object {
        private val worker = Dispatchers.Default.limitedParallelism(1)

        suspend fun load(assets: AssetManager) = withContext(worker) { Refocuser(assets) }

        /** dB, peak 1. */
        fun psnr(got: FloatArray, expected: FloatArray): Double {
            if (got.size != expected.size) return Double.NEGATIVE_INFINITY
            val sum = got.indices.sumOf { i -> (got[i].toDouble() - expected[i]).let { it * it } }
            return -10 * log10(sum / got.size)
        }
    }
}
