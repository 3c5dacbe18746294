// Not built and not run: there was no Mac. Written to Apple's documentation; see README.md.

import CoreGraphics
import CoreVideo
import Foundation
import ImageIO

/// 8-bit sRGB, upright, rows from the top without padding, each pixel B, G, R and a byte unused.
struct Picture: Sendable {
    let height, width: Int
    private(set) var bytes: [UInt8]

    private static var space: CGColorSpace { CGColorSpace(name: CGColorSpace.sRGB)! }
    private static let layout =
        CGImageAlphaInfo.noneSkipFirst.rawValue | CGBitmapInfo.byteOrder32Little.rawValue

    /// The middle of a photo file, filling the size. It is decoded near that size, so that 48 MP
    /// don't fill the memory; turned as EXIF says; and brought from its own profile (Display P3,
    /// as a rule) to sRGB, which is what the network has learnt from.
    init(photo data: Data, height: Int, width: Int) throws {
        guard let source = CGImageSourceCreateWithData(data as CFData, nil),
            let about = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
            let columns = about[kCGImagePropertyPixelWidth] as? Int,
            let rows = about[kCGImagePropertyPixelHeight] as? Int, min(columns, rows) > 0
        else { throw Problem("That is no photo that this phone can read.") }
        let shape = Double(max(columns, rows)) / Double(min(columns, rows))
        let longest = Double(max(height, width)) * shape
        let options: [CFString: Any] = [
            kCGImageSourceCreateThumbnailFromImageAlways: true,
            kCGImageSourceCreateThumbnailWithTransform: true,
            kCGImageSourceThumbnailMaxPixelSize: Int(longest.rounded(.up)),
        ]
        let decoded = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
        guard let decoded else { throw Problem("The photo can't be decoded.") }

        self.init(height: height, width: width)
        let scale = max(
            Double(width) / Double(decoded.width), Double(height) / Double(decoded.height))
        let (w, h) = (Double(decoded.width) * scale, Double(decoded.height) * scale)
        let (left, low) = ((Double(width) - w) / 2, (Double(height) - h) / 2)
        let place = CGRect(x: left, y: low, width: w, height: h)
        withContext {
            $0.interpolationQuality = .high
            $0.draw(decoded, in: place)
        }
    }

    /// Of planes [1, 3, H, W], RGB in 0...1.
    init(planes: [Float], height: Int, width: Int) {
        self.init(height: height, width: width)
        let count = height * width
        precondition(planes.count == 3 * count)
        for pixel in 0..<count {
            for channel in 0..<3 {  // min and max in this order: no NaN gets through
                let value = max(0, min(1, planes[channel * count + pixel]))
                bytes[4 * pixel + 2 - channel] = UInt8((value * 255).rounded())
            }
        }
    }

    private init(height: Int, width: Int) {
        self.height = height
        self.width = width
        bytes = [UInt8](repeating: 0, count: 4 * height * width)
    }

    var image: CGImage? {
        var copy = self
        return copy.withContext { $0.makeImage() } ?? nil
    }

    /// What Core ML takes for an image. A pixel buffer's rows are as long as the phone likes them,
    /// hence row by row; Core ML itself reorders BGRA for a model that wants RGB.
    func pixelBuffer() throws -> CVPixelBuffer {
        var made: CVPixelBuffer?
        let options = [kCVPixelBufferIOSurfacePropertiesKey: [:] as CFDictionary] as CFDictionary
        CVPixelBufferCreate(nil, width, height, kCVPixelFormatType_32BGRA, options, &made)
        guard let buffer = made else { throw Problem("There is no memory for the picture.") }
        CVPixelBufferLockBaseAddress(buffer, [])
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        guard let base = CVPixelBufferGetBaseAddress(buffer) else {
            throw Problem("There is no memory for the picture.")
        }
        let stride = CVPixelBufferGetBytesPerRow(buffer)
        bytes.withUnsafeBytes { source in
            for row in 0..<height {
                let start = source.baseAddress! + row * 4 * width
                (base + row * stride).copyMemory(from: start, byteCount: 4 * width)
            }
        }
        return buffer
    }

    @discardableResult
    private mutating func withContext<T>(_ body: (CGContext) -> T) -> T? {
        let (width, height) = (width, height)
        return bytes.withUnsafeMutableBytes { memory in
            CGContext(
                data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8,
                bytesPerRow: 4 * width, space: Picture.space, bitmapInfo: Picture.layout
            ).map(body)
        }
    }
}
