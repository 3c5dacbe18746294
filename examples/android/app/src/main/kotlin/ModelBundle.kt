// Not built and not run: there was no Android SDK. Written to the documentation; see README.md.
package org.example.argan

import android.content.res.AssetManager
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipInputStream
import org.json.JSONObject

/** What went wrong, in a line for the person who holds the phone. */
class Problem(message: String) : Exception(message)

/**
 * The unpacked bundle among the assets, and of its manifest what this app uses. The fields:
 * argan/bundle.py. Hashes aren't checked: the APK is signed. A bundle from elsewhere needs all the
 * checks of runtime/README.md.
 */
class ModelBundle(private val assets: AssetManager) {
    val precision: String
    val model: String // asset
    val height: Int
    val width: Int
    val fNumber: Float

    init {
        val manifest = JSONObject(open("bundle.json").use { it.readBytes().decodeToString() })
        val schema = manifest.getInt("schema")
        if (schema != 2) throw Problem("The bundle has schema $schema, this app reads 2.")
        val variants = manifest.getJSONObject("variants")
        val fitting = variants.keys().asSequence().map(variants::getJSONObject).filter {
            it.getString("graph") == "refocus" && it.getString("format") == "tflite" &&
                it.getString("dtype") == "float32" && it.getString("layout") == "NHWC"
        }.associateBy { it.getString("precision") }
        val chosen = listOf("fp16", "fp32", "int8").firstNotNullOfOrNull { fitting[it] }
            ?: throw Problem("No TFLite refocus graph in the bundle; export it with --refocus 512.")
        val size = chosen.getJSONArray("sizes").getJSONArray(0)
        precision = chosen.getString("precision")
        model = "$FOLDER/${chosen.getString("file")}"
        height = size.getInt(0)
        width = size.getInt(1)
        fNumber = manifest.getJSONObject("optics").getDouble("f_number").toFloat()
    }

    fun golden(): Arrays = Arrays(open("golden.npz"))

    private fun open(name: String): InputStream = assets.open("$FOLDER/$name")

    companion object {
        const val FOLDER = "camera.argan"

        /** dB of each output to PyTorch, those of `argan verify`. */
        val MIN_PSNR = mapOf("fp16" to 55.0, "fp32" to 110.0, "int8" to 40.0)
    }
}

/** The arrays of a .npz: float32 in C order. */
class Arrays(npz: InputStream) {
    private val arrays = mutableMapOf<String, Pair<List<Int>, FloatArray>>()

    init {
        ZipInputStream(npz).use { zip ->
            while (true) {
                val entry = zip.nextEntry ?: break
                arrays[entry.name.removeSuffix(".npy")] = array(zip.readBytes())
            }
        }
    }

    fun values(name: String, vararg shape: Int): FloatArray {
        val (found, values) = arrays[name] ?: throw Problem("golden.npz has no $name.")
        if (found != shape.toList()) throw Problem("golden.npz has $name of shape $found.")
        return values
    }

    /** A .npy of version 1.0: magic, the length of a header in Python's notation, it, values. */
    private fun array(npy: ByteArray): Pair<List<Int>, FloatArray> {
        val bytes = ByteBuffer.wrap(npy).order(ByteOrder.LITTLE_ENDIAN)
        val length = bytes.getShort(8).toInt()
        val header = npy.decodeToString(10, 10 + length)
        if ("'descr': '<f4'" !in header || "'fortran_order': False" !in header) {
            throw Problem("golden.npz holds something other than float32.")
        }
        val shape = header.substringAfter('(').substringBefore(')').split(',')
            .mapNotNull { it.trim().toIntOrNull() }
        val values = FloatArray(shape.fold(1) { a, b -> a * b })
        bytes.position(10 + length)
        bytes.asFloatBuffer().get(values)
        return shape to values
    }
}
