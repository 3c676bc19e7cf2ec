// What the program makes of pictures, for tests/image_processors_test.py and tests/mutated_images.py. Each line of the
// input is a task, its words separated by tabs, and each is answered by a line: `good` and numbers, or `refused` and
// the sentence.
//
//   rgb FILE OUT                                  width and height; the pixels go to OUT
//   pixels FILE OUT pad|crop SIDE PATCH GRID      tiles, columns, rows; the floats go to OUT; GRID: 672x336,..., or -
//   rows FILE newline|- SIDE PATCH GRID           what `arrange` says, image_newline as -1
#include "engine/error.h"
#include "engine/vision/preprocess.h"

#include <fstream>
#include <iostream>
#include <span>

namespace {

using namespace hearth;

std::vector<std::string> split(const std::string& text, char separator)
{
    std::vector<std::string> words(1);
    for (const char c : text)
        if (c == separator) words.emplace_back();
        else words.back() += c;
    return words;
}

ImageShape shape_of(const std::string& side, const std::string& patch, const std::string& grid)
{
    ImageShape shape;
    shape.side = uint32_t(std::stoul(side));
    shape.patch = uint32_t(std::stoul(patch));
    if (grid == "-") return shape;
    for (const std::string& resolution : split(grid, ',')) {
        const std::vector<std::string> edges = split(resolution, 'x');
        shape.grid.push_back({uint32_t(std::stoul(edges.at(0))), uint32_t(std::stoul(edges.at(1)))});
    }
    return shape;
}

template <class T>
void write(const std::string& path, const std::vector<T>& values)
{
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size() * sizeof(T)));
    if (!out.flush()) throw Error("{} cannot be written", path);
}

std::string answer(const std::vector<std::string>& task)
{
    const Image image = read_image(std::filesystem::path(task.at(1)));
    if (task.at(0) == "rgb") {
        write(task.at(2), image.rgb);
        return fmt::format("{} {}", image.width, image.height);
    }
    const bool wants_rows = task.at(0) == "rows";
    const size_t at = wants_rows ? 3 : 4;
    const ImageShape shape = shape_of(task.at(at), task.at(at + 1), task.at(at + 2));
    const ImageMode mode = !wants_rows && task.at(3) == "crop" ? ImageMode::crop : ImageMode::pad;
    const Pixels pixels = preprocess(image, shape, mode);
    if (!wants_rows) {
        write(task.at(2), pixels.values);
        return fmt::format("{} {} {}", pixels.tiles, pixels.columns, pixels.rows);
    }
    std::string rows;
    for (const uint32_t row : arrange(pixels, shape, task.at(2) == "newline"))
        rows += fmt::format("{}{}", rows.empty() ? "" : " ", int64_t(row == image_newline ? -1 : int64_t(row)));
    return rows;
}

}    // namespace

int main()
{
    for (std::string line; std::getline(std::cin, line);) {
        try {
            const std::string good = "good " + answer(split(line, '\t'));
            std::cout << good << std::endl;
        } catch (const Error& error) {
            std::cout << "refused " << error.what() << std::endl;
        }
    }
}
