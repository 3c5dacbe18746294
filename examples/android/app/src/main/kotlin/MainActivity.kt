// Not built and not run: there was no Android SDK. Written to the documentation; see README.md.
package org.example.argan

import android.content.ContentValues
import android.content.Context
import android.graphics.Bitmap
import android.net.Uri
import android.os.Bundle
import android.provider.MediaStore
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicture
import androidx.compose.foundation.Image
import androidx.compose.foundation.gestures.detectTapGestures
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.aspectRatio
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Slider
import androidx.compose.material3.Surface
import androidx.compose.material3.Switch
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableFloatStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.input.pointer.pointerInput
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.unit.dp
import androidx.core.content.FileProvider
import java.io.File
import kotlin.coroutines.cancellation.CancellationException
import kotlin.math.log2
import kotlin.math.pow
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

class MainActivity : ComponentActivity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent { MaterialTheme { Surface { Start() } } }
    }
}

/** Nothing is shown before the model has passed its check. */
@Composable
fun Start() {
    val context = LocalContext.current
    var refocuser by remember { mutableStateOf<Refocuser?>(null) }
    var words by remember { mutableStateOf("Checking the model on this phone") }
    LaunchedEffect(Unit) {
        try {
            val loaded = Refocuser.load(context.assets)
            words = loaded.check()
            refocuser = loaded
        } catch (error: CancellationException) {
            throw error
        } catch (error: Exception) {
            words = "The model does not compute here what it should: ${error.message}"
        }
    }
    Column(Modifier.safeDrawingPadding().padding(16.dp), Arrangement.spacedBy(16.dp)) {
        refocuser?.let { Editor(it) }
        Text(words, style = MaterialTheme.typography.bodySmall)
    }
}

@Composable
fun Editor(refocuser: Refocuser) {
    val context = LocalContext.current
    val scope = rememberCoroutineScope()
    val bundle = refocuser.bundle
    var photo by remember { mutableStateOf<Bitmap?>(null) }
    var after by remember { mutableStateOf<Bitmap?>(null) }
    var disparity by remember { mutableStateOf(FloatArray(0)) }
    var focus by remember { mutableFloatStateOf(0f) }
    var fNumber by remember { mutableFloatStateOf(bundle.fNumber) }
    var showsBefore by remember { mutableStateOf(false) }
    var words by remember { mutableStateOf("") }

    fun attempt(action: suspend () -> Unit) = scope.launch {
        try {
            action()
        } catch (error: CancellationException) {
            throw error
        } catch (error: Exception) {
            words = error.message ?: error.toString()
        }
    }

    fun open(uri: Uri) = attempt {
        val opened = refocuser.open(context.contentResolver, uri)
        disparity = refocuser.refocus(opened, 0f, 64f).disparity
        focus = refocuser.disparityNear(disparity, bundle.width / 2, bundle.height / 2)
        photo = opened
        words = ""
    }

    val picker = rememberLauncherForActivityResult(PickVisualMedia()) { uri -> uri?.let(::open) }
    val shot = remember { context.shot() }
    val camera = rememberLauncherForActivityResult(TakePicture()) { taken -> if (taken) open(shot) }

    // Anew for each setting; one that is overtaken while the slider moves is not begun.
    LaunchedEffect(photo, focus, fNumber) {
        val opened = photo ?: return@LaunchedEffect
        delay(30)
        attempt { after = refocuser.refocus(opened, focus, fNumber).bitmap }.join()
    }

    (if (showsBefore) photo else after)?.let { shown ->
        Image(
            shown.asImageBitmap(), "Photo. Tap what is to be sharp.",
            Modifier.fillMaxWidth().aspectRatio(bundle.width.toFloat() / bundle.height)
                .pointerInput(Unit) {
                    detectTapGestures { tap ->
                        val x = (tap.x / size.width * bundle.width).toInt()
                        val y = (tap.y / size.height * bundle.height).toInt()
                        focus = refocuser.disparityNear(disparity, x, y)
                    }
                },
        )
    }
    // From f/1: each step lets in half the light.
    Slider(2 * log2(fNumber), { fNumber = 2f.pow(it / 2) }, valueRange = 0f..8f)
    Row(Modifier.fillMaxWidth(), Arrangement.SpaceBetween, Alignment.CenterVertically) {
        Text("f/%.1f".format(fNumber))
        Text("Before")
        Switch(showsBefore, { showsBefore = it })
    }
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        val photos = PickVisualMediaRequest(PickVisualMedia.ImageOnly)
        Button({ picker.launch(photos) }) { Text("Open") }
        Button({ camera.launch(shot) }) { Text("Camera") }
        after?.let { Button({ attempt { words = context.save(it) } }) { Text("Save") } }
    }
    Text(words)
}

/** Where the camera app is to put its photo. */
private fun Context.shot(): Uri =
    FileProvider.getUriForFile(this, "$packageName.photos", File(cacheDir, "shot.jpg"))

private suspend fun Context.save(picture: Bitmap): String = withContext(Dispatchers.IO) {
    val about = ContentValues().apply {
        put(MediaStore.Images.Media.DISPLAY_NAME, "argan_${System.currentTimeMillis()}.png")
        put(MediaStore.Images.Media.MIME_TYPE, "image/png")
        put(MediaStore.Images.Media.IS_PENDING, 1)
    }
    val uri = contentResolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, about)
        ?: throw Problem("There is no place for the picture.")
    val written = contentResolver.openOutputStream(uri)?.use {
        picture.compress(Bitmap.CompressFormat.PNG, 100, it)
    }
    if (written != true) {
        contentResolver.delete(uri, null, null)
        throw Problem("The picture can't be written.")
    }
    about.put(MediaStore.Images.Media.IS_PENDING, 0)
    contentResolver.update(uri, about, null, null)
    "Saved among the pictures."
}
