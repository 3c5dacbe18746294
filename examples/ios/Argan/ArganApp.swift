// Not built and not run: there was no Mac. Written to Apple's documentation; see README.md.

import PhotosUI
import SwiftUI
import UIKit

@main
struct ArganApp: App {
    var body: some Scene {
        WindowGroup { StartView() }
    }
}

/// Nothing is shown before the model has passed its check.
struct StartView: View {
    enum Phase {
        case checking
        case refused(String)
        case ready(Refocuser, report: String)
    }

    @State private var phase = Phase.checking

    var body: some View {
        Group {
            switch phase {
            case .checking:
                ProgressView("Checking the model on this phone")
            case .refused(let why):
                ContentUnavailableView(
                    "The model does not compute here what it should",
                    systemImage: "xmark.octagon", description: Text(why))
            case .ready(let refocuser, let report):
                EditorView(refocuser: refocuser, report: report)
            }
        }
        .task {
            do {
                let refocuser = try await Refocuser(ModelBundle.inApp())
                phase = .ready(refocuser, report: try await refocuser.check())
            } catch {
                phase = .refused(error.localizedDescription)
            }
        }
    }
}

struct EditorView: View {
    /// What a picture is computed from; a change computes it anew.
    struct Setting: Equatable {
        var photo = 0
        var focus: Float = 0
        var fNumber: Double
    }

    let refocuser: Refocuser
    let report: String

    @State private var setting: Setting
    @State private var picked: PhotosPickerItem?
    @State private var takesPhoto = false
    @State private var photo: Picture?
    @State private var disparity: [Float] = []
    @State private var before: CGImage?
    @State private var after: CGImage?
    @State private var showsBefore = false
    @State private var problem: String?

    init(refocuser: Refocuser, report: String) {
        self.refocuser = refocuser
        self.report = report
        _setting = State(initialValue: Setting(fNumber: refocuser.bundle.fNumber))
    }

    var body: some View {
        VStack(spacing: 16) {
            picture
            Slider(value: stops, in: 0...8) { Text("Aperture") }
                .accessibilityValue(aperture)
            HStack {
                Text(aperture).monospacedDigit()
                Spacer()
                Toggle("Before", isOn: $showsBefore).fixedSize()
            }
            HStack {
                PhotosPicker("Open", selection: $picked, matching: .images)
                if UIImagePickerController.isSourceTypeAvailable(.camera) {
                    Button("Camera") { takesPhoto = true }
                }
                Spacer()
                if let after {
                    let image = Image(decorative: after, scale: 1)
                    ShareLink("Save", item: image, preview: SharePreview("Refocused", image: image))
                }
            }
            Text(problem ?? report).font(.footnote)
                .foregroundStyle(problem == nil ? Color.secondary : Color.red)
        }
        .padding()
        .fullScreenCover(isPresented: $takesPhoto) {
            Camera { data in
                takesPhoto = false
                if let data { Task { await open(data) } }
            }
            .ignoresSafeArea()
        }
        .task(id: picked) {
            guard let picked else { return }
            do {
                let data = try await picked.loadTransferable(type: Data.self)
                if let data { await open(data) }
            } catch {
                problem = error.localizedDescription
            }
        }
        .task(id: setting) { await render() }
    }

    @ViewBuilder private var picture: some View {
        let (height, width) = (refocuser.bundle.height, refocuser.bundle.width)
        GeometryReader { space in
            if let shown = showsBefore ? before : after {
                Image(shown, scale: 1, label: Text("Photo. Tap what is to be sharp.")).resizable()
                    .onTapGesture { tap in
                        let x = Int(tap.x / space.size.width * Double(width))
                        let y = Int(tap.y / space.size.height * Double(height))
                        setting.focus = disparityNear(x: x, y: y)
                    }
            } else {
                ContentUnavailableView("Open or take a photo", systemImage: "camera.aperture")
            }
        }
        .aspectRatio(Double(width) / Double(height), contentMode: .fit)
    }

    /// From f/1: each step lets in half the light.
    private var stops: Binding<Double> {
        Binding(get: { 2 * log2(setting.fNumber) }, set: { setting.fNumber = exp2($0 / 2) })
    }

    private var aperture: String { String(format: "f/%.1f", setting.fNumber) }

    private func open(_ data: Data) async {
        do {
            let (height, width) = (refocuser.bundle.height, refocuser.bundle.width)
            let photo = try await Task.detached {  // decoding, off the main thread
                try Picture(photo: data, height: height, width: width)
            }.value
            disparity = try await refocuser.refocus(photo, focus: 0, fNumber: 64).disparity
            self.photo = photo
            before = photo.image
            setting.focus = disparityNear(x: width / 2, y: height / 2)
            setting.photo += 1
        } catch {
            problem = error.localizedDescription
        }
    }

    private func render() async {
        guard let photo else { return }
        do {
            try await Task.sleep(for: .milliseconds(30))  // only a slider's last place counts
            let output = try await refocuser.refocus(
                photo, focus: setting.focus, fNumber: setting.fNumber)
            try Task.checkCancellation()
            after = output.picture.image
            problem = nil
        } catch is CancellationError {
        } catch {
            problem = error.localizedDescription
        }
    }

    /// The median of 11 x 11 px, as `argan refocus --focus X,Y` takes it.
    private func disparityNear(x: Int, y: Int) -> Float {
        let (height, width) = (refocuser.bundle.height, refocuser.bundle.width)
        let reach = max(1, min(height, width) / 100)
        var around: [Float] = []
        for row in max(0, y - reach)...min(height - 1, max(0, y + reach)) {
            for column in max(0, x - reach)...min(width - 1, max(0, x + reach)) {
                around.append(disparity[row * width + column])
            }
        }
        return around.sorted()[around.count / 2]
    }
}

/// The system's camera. Its JPEG says in EXIF which way is up, as the photos of the library do.
struct Camera: UIViewControllerRepresentable {
    let onEnd: (Data?) -> Void

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let camera = UIImagePickerController()
        camera.sourceType = .camera
        camera.delegate = context.coordinator
        return camera
    }

    func updateUIViewController(_ camera: UIImagePickerController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(onEnd) }

    final class Coordinator: NSObject, UIImagePickerControllerDelegate,
        UINavigationControllerDelegate
    {
        private let onEnd: (Data?) -> Void
        init(_ onEnd: @escaping (Data?) -> Void) { self.onEnd = onEnd }

        func imagePickerController(
            _ picker: UIImagePickerController,
            didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]
        ) {
            onEnd((info[.originalImage] as? UIImage)?.jpegData(compressionQuality: 0.95))
        }

        func imagePickerControllerDidCancel(_ picker: UIImagePickerController) {
            onEnd(nil)
        }
    }
}
