// The facts of a machine that `hearth doctor` judges, from /proc, /sys and what the Vulkan loader reads.
//     sysfs: https://docs.kernel.org/admin-guide/abi-testing.html (pci, cpufreq, block)
//     layers and drivers: https://github.com/KhronosGroup/Vulkan-Loader, docs/LoaderLayerInterface.md
#include "engine/system/limits.h"
#include "tools/hearth/doctor.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

namespace hearth::tools {

namespace {

namespace fs = std::filesystem;

uint64_t number(std::string_view text, int base = 10)
{
    if (base == 16 && text.starts_with("0x")) text.remove_prefix(2);
    uint64_t x = 0;
    std::from_chars(text.data(), text.data() + text.size(), x, base);
    return x;
}

/// What is in a folder, in order; nothing where there is none.
std::vector<fs::path> entries(const fs::path& folder)
{
    std::error_code ec;
    std::vector<fs::path> found;
    for (fs::directory_iterator at(folder, ec), end; !ec && at != end; at.increment(ec)) found.push_back(at->path());
    std::ranges::sort(found);
    return found;
}

/// Where a path of /sys really lies: its folders are what the thing hangs on.
fs::path resolved(const fs::path& path)
{
    std::error_code ec;
    const fs::path real = fs::canonical(path, ec);
    return ec ? path : real;
}

// ---- memory and processors
// -------------------------------------------------------------------------------------------

void read_memory(const fs::path& root, SystemFacts& f)
{
    std::map<std::string, uint64_t> kib;
    std::ifstream file(root / "proc/meminfo");
    for (std::string line; std::getline(file, line);) {    // "MemTotal:       16384 kB"
        std::istringstream words(line);
        std::string name;
        uint64_t value = 0;
        if (words >> name >> value) kib[name] = value;
    }
    const auto bytes = [&](const char* name) {
        return kib.contains(name) ? std::optional(kib[name] * 1024) : std::nullopt;
    };
    f.memory = bytes("MemTotal:");
    f.available = available_memory(root);
    f.swap = bytes("SwapTotal:");
    if (f.swap && kib.contains("SwapFree:")) f.swap_used = *f.swap - std::min(*f.swap, kib["SwapFree:"] * 1024);
}

/// Of a list as "0-3,8", which /proc/self/status has; empty where it does not say.
std::set<uint64_t> allowed_cpus(const fs::path& root)
{
    std::set<uint64_t> cpus;
    std::ifstream file(root / "proc/self/status");
    for (std::string line; std::getline(file, line);) {
        constexpr std::string_view name = "Cpus_allowed_list:";
        if (!line.starts_with(name)) continue;
        std::istringstream ranges(line.substr(name.size()));
        for (std::string range; std::getline(ranges >> std::ws, range, ',');) {
            const size_t dash = range.find('-');
            const uint64_t first = number(range), last = dash == range.npos ? first : number(range.substr(dash + 1));
            for (uint64_t cpu = first; cpu <= std::min(last, first + 65535); ++cpu) cpus.insert(cpu);
        }
    }
    return cpus;
}

void read_processors(const fs::path& root, SystemFacts& f)
{
    f.quota = cpu_quota(root);
    const std::set<uint64_t> allowed = allowed_cpus(root);
    std::set<CpuClock> clocks;
    std::set<std::string> cores, allowed_cores;    // threads of one core share the list of their siblings
    for (const fs::path& cpu : entries(root / "sys/devices/system/cpu")) {
        const std::string siblings = first_line(cpu / "topology/thread_siblings_list");
        if (!siblings.empty()) {
            cores.insert(siblings);
            const std::string digits = cpu.filename().string().substr(3);    // "cpu12"
            if (allowed.empty() || allowed.contains(number(digits))) allowed_cores.insert(siblings);
        }
        const fs::path at = cpu / "cpufreq";
        if (!fs::exists(at / "scaling_governor")) continue;
        clocks.insert({.driver = first_line(at / "scaling_driver"),
                       .governor = first_line(at / "scaling_governor"),
                       .preference = first_line(at / "energy_performance_preference"),
                       .limit_khz = number(first_line(at / "scaling_max_freq")),
                       .most_khz = number(first_line(at / "cpuinfo_max_freq"))});
    }
    f.cores = unsigned(cores.size());
    f.allowed_cores = unsigned(allowed_cores.size());
    f.clocks.assign(clocks.begin(), clocks.end());
    f.platform_profile = first_line(root / "sys/firmware/acpi/platform_profile");
    for (const fs::path& supply : entries(root / "sys/class/power_supply"))
        if (first_line(supply / "type") == "Mains")
            f.on_mains = f.on_mains.value_or(false) || first_line(supply / "online") == "1";
}

// ---- GPUs -----------------------------------------------------------------------------------------------------------

/// A line for each region of its addresses: first, last, flags.
uint64_t largest_region(const fs::path& device)
{
    constexpr uint64_t memory = 0x200;    // IORESOURCE_MEM
    std::ifstream file(device / "resource");
    uint64_t largest = 0;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string first, last, flags;
        if (!(words >> first >> last >> flags) || !(number(flags, 16) & memory)) continue;
        largest = std::max(largest, number(last, 16) - number(first, 16) + 1);
    }
    return largest;
}

/// The narrowest link between the processor and it: cards bring a switch of their own, behind which all is wide.
uint32_t narrowest_link(fs::path device)
{
    uint32_t least = 0;
    for (; fs::exists(device / "vendor"); device = device.parent_path())
        if (const uint32_t lanes = uint32_t(number(first_line(device / "current_link_width"))); lanes > 0)
            least = least ? std::min(least, lanes) : lanes;
    return least;
}

std::vector<BusGpu> bus_gpus(const fs::path& root)
{
    std::vector<BusGpu> found;
    for (const fs::path& entry : entries(root / "sys/bus/pci/devices")) {
        constexpr uint64_t display = 0x03;    // the first byte of a PCI class
        if (number(first_line(entry / "class"), 16) >> 16 != display) continue;
        const fs::path driver = resolved(entry / "driver");
        found.push_back({.slot = entry.filename().string(),
                         .vendor = uint32_t(number(first_line(entry / "vendor"), 16)),
                         .number = uint32_t(number(first_line(entry / "device"), 16)),
                         .kernel_driver = fs::exists(driver) ? driver.filename().string() : "",
                         .window = largest_region(entry),
                         .lanes = narrowest_link(resolved(entry)),
                         .most_lanes = uint32_t(number(first_line(entry / "max_link_width")))});
    }
    return found;
}

void read_gpus(const fs::path& root, SystemFacts& f)
{
    f.gpus = bus_gpus(root);
    for (const fs::path& node : entries(root / "dev/dri"))
        if (node.filename().string().starts_with("renderD") && !may_use(node))
            f.closed_nodes.push_back("/dev/dri/" + node.filename().string());
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 ..."
    std::istringstream words(first_line(root / "proc/driver/nvidia/version"));
    for (std::string word; words >> word && !f.nvidia_module;)
        if (std::isdigit(uint8_t(word[0])) && word.find('.') != word.npos) f.nvidia_module = word;
}

// ---- Vulkan ---------------------------------------------------------------------------------------------------------

/// Folders in which the loader looks for manifests of that kind.
std::vector<fs::path> manifest_folders(const fs::path& root, const Environment& environment, const std::string& kind)
{
    std::vector<fs::path> folders;
    const std::string home = environment("HOME"), data = environment("XDG_DATA_HOME");
    if (!data.empty()) folders.push_back(fs::path(data) / "vulkan" / kind);
    else if (!home.empty()) folders.push_back(fs::path(home) / ".local/share/vulkan" / kind);
    for (const char* folder : {"etc", "usr/local/share", "usr/share"})
        folders.push_back(root / folder / "vulkan" / kind);
    return folders;
}

/// The variable's name of {"NAME": "value"}, and whether it is set, to that value where `exactly`.
std::pair<std::string, bool> variable(const nlohmann::json& layer, const char* key, const Environment& environment,
                                      bool exactly)
{
    const auto at = layer.find(key);
    if (at == layer.end() || !at->is_object() || at->empty()) return {"", false};
    const std::string name = at->begin().key(), value = environment(name);
    const bool same = at->begin()->is_string() && value == at->begin()->get<std::string>();
    return {name, exactly ? same : !value.empty()};
}

/// Of one manifest, the layers that the loader will load.
void add_layers(const fs::path& path, const Environment& environment, std::vector<ImplicitLayer>& out)
{
    std::ifstream file(path);
    const nlohmann::json manifest = nlohmann::json::parse(file, nullptr, false);
    if (!manifest.is_object()) return;
    nlohmann::json all = manifest.value("layers", nlohmann::json::array());
    if (manifest.contains("layer")) all.push_back(manifest["layer"]);
    for (const nlohmann::json& layer : all) {
        if (!layer.is_object() || !layer.contains("name") || !layer["name"].is_string()) continue;
        const auto [on, is_on] = variable(layer, "enable_environment", environment, true);
        const auto [off, is_off] = variable(layer, "disable_environment", environment, false);
        if ((on.empty() || is_on) && !is_off) out.push_back({layer["name"], off});
    }
}

void read_vulkan(const fs::path& root, const Environment& environment, SystemFacts& f)
{
    for (const char* name : {"VK_INSTANCE_LAYERS", "VK_LOADER_LAYERS_ENABLE", "VK_DRIVER_FILES", "VK_ICD_FILENAMES",
                             "VK_LOADER_DRIVERS_SELECT", "VK_LOADER_DRIVERS_DISABLE"})
        if (const std::string value = environment(name); !value.empty()) f.environment.emplace_back(name, value);
    for (const fs::path& folder : manifest_folders(root, environment, "icd.d"))
        for (const fs::path& file : entries(folder)) f.vulkan_drivers.push_back(file.filename().string());
    const std::string disabled = environment("VK_LOADER_LAYERS_DISABLE");
    if (disabled.find("~implicit~") != disabled.npos || disabled.find("~all~") != disabled.npos) return;
    for (const fs::path& folder : manifest_folders(root, environment, "implicit_layer.d"))
        for (const fs::path& file : entries(folder))
            if (file.extension() == ".json") add_layers(file, environment, f.layers);
}

// ---- where a model lies ---------------------------------------------------------------------------------------------

struct Mount {
    std::string device, point, filesystem, source;    // "8:1", "/", "ext4", "/dev/sda1"
};

/// The mount that a path lies in: the longest, and of equals the last, which hides the others.
std::optional<Mount> mount_of(const fs::path& root, const std::string& path)
{
    std::optional<Mount> best;
    std::ifstream file(root / "proc/self/mountinfo");
    // id parent device root mount options [tags] - type source options
    for (std::string line; std::getline(file, line);) {
        const size_t dash = line.find(" - ");
        if (dash == line.npos) continue;
        std::istringstream left(line.substr(0, dash)), right(line.substr(dash + 3));
        Mount m;
        std::string skipped;
        if (!(left >> skipped >> skipped >> m.device >> skipped >> m.point) || !(right >> m.filesystem >> m.source))
            continue;
        m.point = without_octals(m.point);
        const bool inside = m.point == "/" || path == m.point || path.starts_with(m.point + "/");
        if (inside && (!best || m.point.size() >= best->point.size())) best = m;
    }
    return best;
}

std::optional<Storage> storage_of(const fs::path& root, const fs::path& model)
{
    const std::optional<Mount> mount = mount_of(root, model.generic_string());
    if (!mount) return {};
    static constexpr std::string_view remote[] = {"nfs", "nfs4",       "cifs", "smb3",        "smbfs", "afs",
                                                  "9p",  "fuse.sshfs", "ceph", "fuse.rclone", "davfs"};
    Storage s = {.name = mount->source, .filesystem = mount->filesystem};
    s.remote = std::ranges::find(remote, s.filesystem) != std::end(remote);
    // File systems of several disks have a number that no disk has.
    std::error_code ec;
    fs::path block = root / "sys/dev/block" / mount->device;
    if (!fs::exists(block, ec)) block = root / "sys/class/block" / fs::path(mount->source).filename();
    if (!fs::exists(block, ec)) return s;
    block = resolved(block);
    s.name = block.filename().string();
    s.usb = block.generic_string().find("/usb") != std::string::npos;
    const fs::path disk = fs::exists(block / "queue", ec) ? block : block.parent_path();    // of a part of one
    // What a virtual machine is given says that it turns, whatever it is.
    const std::string name = disk.filename().string();
    const bool is_virtual = name.starts_with("vd") || name.starts_with("xvd");
    s.rotational = !is_virtual && first_line(disk / "queue/rotational") == "1";
    return s;
}

}    // namespace

SystemFacts read_system_facts(const fs::path& root, const Environment& environment, const fs::path& model)
{
    SystemFacts f = {.system = system_version(root)};
    read_memory(root, f);
    read_processors(root, f);
    read_gpus(root, f);
    read_vulkan(root, environment, f);
    if (!model.empty()) f.storage = storage_of(root, model);
    return f;
}

}    // namespace hearth::tools
