// Not built and not run: there was no Mac. Written to Apple's documentation; see README.md.

import CoreML
import Foundation

/// The refocus graph of a bundle. An actor: off the main thread, and one picture at a time.
actor Refocuser {
    /// disparity  [H, W], larger = nearer; 0 and 1 are the ends of a typical photo
    struct Output: Sendable {
        let picture: Picture
        let disparity: [Float]
    }

    nonisolated let bundle: ModelBundle
    private let model: MLModel

    init(_ bundle: ModelBundle) async throws {
        self.bundle = bundle
        let package = bundle.folder.appending(path: bundle.variant.file)
        let compiled = try await MLModel.compileModel(at: package)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .all
        model = try MLModel(contentsOf: compiled, configuration: configuration)
    }

    /// focus    the disparity that is sharp
    /// fNumber  by argan's convention (optics.py): at f/1.8, one unit of disparity blurs to a disc
    ///          with a radius of 2 % of the width
    func refocus(_ picture: Picture, focus: Float, fNumber: Double) throws -> Output {
        let blur = 0.02 * Double(bundle.width) * 1.8 / fNumber
        let answer = try run(picture, focus: focus, blur: Float(blur))
        return Output(
            picture: Picture(planes: answer.bokeh, height: bundle.height, width: bundle.width),
            disparity: answer.disparity)
    }

    /// golden.npz by the way that photos take, on whatever part of the phone Core ML has chosen.
    /// What it found, or, where that misses the limit, a Problem.
    func check() throws -> String {
        let (height, width) = (bundle.height, bundle.width)
        let golden = try Arrays(npz: Data(contentsOf: bundle.folder.appending(path: "golden.npz")))
        let image = try golden.values("refocus_image", [1, 3, height, width])  // of 8 bits, exactly
        let got = try run(
            Picture(planes: image, height: height, width: width),
            focus: golden.values("focus", [1])[0], blur: golden.values("blur", [1])[0])
        let bokeh = try psnr(got.bokeh, golden.values("bokeh", [1, 3, height, width]))
        let disparity = try psnr(
            got.disparity, golden.values("refocus_disparity", [1, 1, height, width]))

        let precision = bundle.variant.precision
        guard let limit = ModelBundle.minimumPSNR[precision] else {
            throw Problem("The app knows no limit for \(precision).")
        }
        let found = String(
            format: "bokeh %.1f dB, disparity %.1f dB to PyTorch; at least %.0f dB wanted",
            bokeh, disparity, limit)
        guard bokeh >= limit, disparity >= limit else { throw Problem(found) }  // NaN too
        return found
    }

    /// -> bokeh [1, 3, H, W], sRGB in 0...1, and disparity [1, 1, H, W].
    private func run(
        _ picture: Picture, focus: Float, blur: Float
    ) throws -> (bokeh: [Float], disparity: [Float]) {
        let inputs = try MLDictionaryFeatureProvider(dictionary: [
            "image": MLFeatureValue(pixelBuffer: picture.pixelBuffer()),
            "focus": MLFeatureValue(multiArray: one(focus)),
            "blur": MLFeatureValue(multiArray: one(blur)),
        ])
        let answer = try model.prediction(from: inputs)
        func values(_ name: String, channels: Int) throws -> [Float] {
            guard let array = answer.featureValue(for: name)?.multiArrayValue,
                array.shape.map(\.intValue) == [1, channels, bundle.height, bundle.width]
            else { throw Problem("The model's \(name) is not what the bundle says.") }
            // Whatever the type and the strides in memory: float32, row after row.
            return MLShapedArray<Float>(converting: array).scalars
        }
        return try (values("bokeh", channels: 3), values("disparity", channels: 1))
    }

    private func one(_ value: Float) -> MLMultiArray {
        MLMultiArray(MLShapedArray<Float>(scalars: [value], shape: [1]))
    }
}

/// dB, peak 1.
func psnr(_ got: [Float], _ expected: [Float]) -> Double {
    guard got.count == expected.count, !got.isEmpty else { return -.infinity }
    var sum = 0.0
    for (a, b) in zip(got, expected) {
        let difference = Double(a) - Double(b)
        sum += difference * difference
    }
    return -10 * log10(sum / Double(got.count))
}
