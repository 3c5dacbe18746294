// Not built and not run: there was no Mac. Written to Apple's documentation; see README.md.

import Foundation

/// What went wrong, in a line for the person who holds the phone.
struct Problem: LocalizedError {
    let errorDescription: String?
    init(_ text: String) { errorDescription = text }
}

/// A bundle as a folder, and of its manifest what this app uses. The fields: argan/bundle.py.
struct ModelBundle: Sendable {
    struct Manifest: Decodable, Sendable {
        struct Variant: Decodable, Sendable {
            let graph, format, precision, file, dtype: String
            let sizes: [[Int]]?
        }
        struct Optics: Decodable, Sendable { let f_number: Double }
        let schema: Int
        let variants: [String: Variant]
        let optics: Optics
    }

    /// dB of each output to PyTorch, those of `argan verify`.
    static let minimumPSNR = ["fp16": 55.0, "fp32": 110.0, "int8": 40.0, "palette6": 35.0]

    let folder: URL
    let variant: Manifest.Variant
    let height, width: Int
    let fNumber: Double

    /// The folder "camera.argan" of the app.
    static func inApp() throws -> ModelBundle {
        guard let folder = Bundle.main.url(forResource: "camera", withExtension: "argan") else {
            throw Problem("The app has no folder camera.argan; see README.md.")
        }
        return try ModelBundle(folder: folder)
    }

    /// Hashes aren't checked: the folder is part of the signed app. A bundle from elsewhere needs
    /// all the checks of runtime/README.md.
    init(folder: URL) throws {
        let text = try Data(contentsOf: folder.appending(path: "bundle.json"))
        let manifest = try JSONDecoder().decode(Manifest.self, from: text)
        guard manifest.schema == 2 else {
            throw Problem("The bundle has schema \(manifest.schema), this app reads 2.")
        }
        let fitting = manifest.variants.values.filter {
            $0.graph == "refocus" && $0.format == "coreml" && $0.dtype == "uint8"
        }
        let chosen = ["fp16", "fp32", "int8", "palette6"].lazy
            .compactMap { precision in fitting.first { $0.precision == precision } }.first
        guard let chosen, let size = chosen.sizes?.first, size.count == 2 else {
            throw Problem("The bundle has no Core ML refocus graph; export it with --refocus 512.")
        }
        self.folder = folder
        variant = chosen
        height = size[0]
        width = size[1]
        fNumber = manifest.optics.f_number
    }
}

/// Arrays of a .npz: float32 in C order, stored and not compressed, which is how argan writes them.
struct Arrays {
    private var arrays: [String: (shape: [Int], values: [Float])] = [:]

    init(npz data: Data) throws {
        let zip = Bytes(data)
        let end = data.count - 22  // of a zip without comment
        guard try zip.number(end, 4) == 0x0605_4b50 else { throw Problem("golden.npz is no zip.") }
        var entry = try zip.number(end + 16, 4)
        // Sizes are those of the directory at the end: NumPy's local headers have a zip64 field.
        for _ in 0..<(try zip.number(end + 10, 2)) {
            guard try zip.number(entry, 4) == 0x0201_4b50, try zip.number(entry + 10, 2) == 0 else {
                throw Problem("golden.npz is compressed or damaged; export the bundle again.")
            }
            let size = try zip.number(entry + 24, 4), local = try zip.number(entry + 42, 4)
            let name = try zip.number(entry + 28, 2)
            let skip = try zip.number(local + 26, 2) + zip.number(local + 28, 2)
            let file = try zip.slice(local + 30 + skip, size)
            let key = String(decoding: try zip.slice(entry + 46, name), as: UTF8.self)
            arrays[key.replacing(".npy", with: "")] = try Arrays.array(Bytes(file))
            entry += 46 + name + (try zip.number(entry + 30, 2)) + (try zip.number(entry + 32, 2))
        }
    }

    func values(_ name: String, _ shape: [Int]) throws -> [Float] {
        guard let array = arrays[name], array.shape == shape else {
            throw Problem("golden.npz has no \(name) of shape \(shape); export the bundle again.")
        }
        return array.values
    }

    /// A .npy of version 1.0: magic, the length of a header in Python's notation, header, values.
    private static func array(_ npy: Bytes) throws -> (shape: [Int], values: [Float]) {
        let length = try npy.number(8, 2)
        let header = String(decoding: try npy.slice(10, length), as: UTF8.self)
        guard header.contains("'descr': '<f4'"), header.contains("'fortran_order': False"),
            let open = header.firstIndex(of: "("), let close = header.firstIndex(of: ")")
        else { throw Problem("golden.npz holds something other than float32.") }
        let shape = header[open..<close].dropFirst().split(separator: ",").compactMap {
            Int($0.trimmingCharacters(in: .whitespaces))
        }
        let count = shape.reduce(1, *)
        let values = try npy.slice(10 + length, 4 * count).withUnsafeBytes { raw in
            (0..<count).map { raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
        }
        return (shape, values)
    }
}

/// Little-endian numbers and slices; outside the data it throws, where `Data` would end the app.
private struct Bytes {
    private let bytes: [UInt8]
    init(_ bytes: some Sequence<UInt8>) { self.bytes = Array(bytes) }

    func slice(_ at: Int, _ count: Int) throws -> ArraySlice<UInt8> {
        guard at >= 0, count >= 0, at + count <= bytes.count else {
            throw Problem("golden.npz is cut short; export the bundle again.")
        }
        return bytes[at..<at + count]
    }

    func number(_ at: Int, _ count: Int) throws -> Int {
        try slice(at, count).reversed().reduce(0) { $0 << 8 | Int($1) }
    }
}
