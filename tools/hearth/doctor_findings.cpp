// What is wrong with a machine: one small function for each condition, and a list of them.
#include "tools/hearth/doctor.h"
#include "tools/hearth/units.h"

#include <algorithm>
#include <charconv>
#include <climits>
#include <iterator>
#include <set>

namespace hearth::tools {

namespace {

using Findings = std::vector<Finding>;

// ---- GPU and driver -------------------------------------------------------------------------------------------------

struct Vendor {
    uint32_t number;    // of the PCI bus, and of Vulkan
    const char *name, *advice;
};
constexpr Vendor vendors[] = {
    {0x10de, "NVIDIA",
     "install NVIDIA's own driver, or Mesa 24.1 or newer with the kernel's nouveau (Turing and later)"},
    {0x1002, "AMD",
     "install Mesa's Vulkan drivers (Debian: mesa-vulkan-drivers) and the firmware (firmware-amd-graphics)"},
    {0x8086, "Intel", "install Mesa's Vulkan drivers (Debian: mesa-vulkan-drivers)"},
};

const Vendor* vendor_of(uint32_t number)
{
    const auto* const found = std::ranges::find(vendors, number, &Vendor::number);
    return found == std::end(vendors) ? nullptr : found;
}

/// Adapters of virtual machines and of servers' maintenance are no GPUs.
bool is_gpu(const BusGpu& gpu) { return vendor_of(gpu.vendor) != nullptr; }

bool any_gpu(const SystemFacts& s) { return std::ranges::any_of(s.gpus, is_gpu); }

bool is_software(const DeviceDescription& d) { return d.kind == "software device"; }

const DeviceDescription* chosen(const DoctorFacts& f)
{
    return f.vulkan.chosen ? &f.vulkan.devices[*f.vulkan.chosen] : nullptr;
}

/// A variable that keeps drivers from the loader, if one is set.
std::string hiding_variable(const SystemFacts& s)
{
    for (const auto& [name, value] : s.environment)
        if (name == "VK_DRIVER_FILES" || name == "VK_ICD_FILENAMES" || name.starts_with("VK_LOADER_DRIVERS"))
            return name;
    return "";
}

std::string advice_for(const BusGpu& gpu, const SystemFacts& s)
{
    const Vendor& vendor = *vendor_of(gpu.vendor);
    const std::string hiding = hiding_variable(s);
    if (!hiding.empty()) return fmt::format("unset {}, which names the drivers that are looked at", hiding);
    if (!s.closed_nodes.empty())
        return fmt::format("add yourself to the group that {} belongs to (usually `render`), and log in again",
                           s.closed_nodes[0]);
    if (gpu.kernel_driver == "vfio-pci") return "it is kept for virtual machines: give it back to its own driver";
    if (gpu.kernel_driver == "radeon")
        return "boot with radeon.si_support=0 amdgpu.si_support=1 (and the same with cik_support): amdgpu has Vulkan";
    const bool installed =
        std::ranges::any_of(s.vulkan_drivers, [](const std::string& name) { return name.find("nvidia") != name.npos; });
    if (gpu.vendor == 0x10de && installed && !s.nvidia_module)
        return "NVIDIA's driver is installed but its kernel module is not loaded: start again after an update, or "
               "build "
               "it for this kernel (dkms autoinstall; with Secure Boot it must be signed)";
    if (gpu.vendor == 0x10de && installed)
        return fmt::format("NVIDIA's kernel module {} may be of another version than its libraries: start again after "
                           "an update",
                           *s.nvidia_module);
    return vendor.advice;
}

Findings no_loader(const DoctorFacts& f)
{
    if (f.vulkan.loader) return {};
    return {{any_gpu(f.system), "there is no Vulkan loader (libvulkan), so no GPU can be used",
             "install it (Debian: libvulkan1)"}};
}

Findings gpus_without_driver(const DoctorFacts& f)
{
    if (!f.vulkan.loader) return {};
    Findings out;
    for (const BusGpu& gpu : f.system.gpus) {
        if (!is_gpu(gpu)) continue;
        const bool seen = std::ranges::any_of(f.vulkan.devices, [&](const DeviceDescription& d) {
            return d.vendor == gpu.vendor && (d.number == gpu.number || f.system.gpus.size() == 1);
        });
        if (seen) continue;
        const std::string taken =
            gpu.kernel_driver.empty() ? "no kernel driver has it" : "the kernel's driver is " + gpu.kernel_driver;
        out.push_back(
            {chosen(f) == nullptr || chosen(f)->kind != "discrete GPU",
             fmt::format("Vulkan does not see the {} GPU at {} ({})", vendor_of(gpu.vendor)->name, gpu.slot, taken),
             advice_for(gpu, f.system)});
    }
    return out;
}

Findings software_only(const DoctorFacts& f)
{
    const auto& devices = f.vulkan.devices;
    if (devices.empty() || !std::ranges::all_of(devices, is_software)) return {};
    return {{any_gpu(f.system), fmt::format("the only Vulkan device is {}, which computes on the CPU", devices[0].name),
             "if there is a GPU, see to its driver; until then the CPU is used alone, which is faster"}};
}

Findings unfit_devices(const DoctorFacts& f)
{
    Findings out;
    for (const DeviceDescription& d : f.vulkan.devices)
        if (!d.unfit.empty())
            out.push_back({chosen(f) == nullptr, fmt::format("{} cannot be used: it {}", d.name, d.unfit),
                           "update its driver; a GPU without a Vulkan 1.3 driver cannot be used"});
    return out;
}

Findings integrated_chosen(const DoctorFacts& f)
{
    const DeviceDescription* const used = chosen(f);
    if (!used || used->kind != "integrated GPU") return {};
    for (const DeviceDescription& d : f.vulkan.devices)
        if (d.kind == "discrete GPU" && d.unfit.empty())
            return {{true,
                     fmt::format("{} is chosen, which shares the CPU's memory, and there is {}", used->name, d.name),
                     fmt::format("leave out --device (and HEARTH_DEVICE), or name {}", d.name)}};
    return {};
}

Findings software_chosen(const DoctorFacts& f)
{
    const DeviceDescription* const used = chosen(f);
    if (!used || !is_software(*used)) return {};
    return {{true, fmt::format("{} is chosen, which computes on the CPU", used->name),
             "leave out --device (and HEARTH_DEVICE)"}};
}

Findings device_not_found(const DoctorFacts& f)
{
    if (f.vulkan.refused.empty()) return {};
    return {{true, f.vulkan.refused, ""}};
}

/// "radv Mesa 22.3.6" is {22, 3} behind "radv Mesa ".
std::pair<int, int> version_behind(std::string_view name, std::string_view driver)
{
    std::pair<int, int> version = {0, 0};
    driver.remove_prefix(name.size());
    const char* const end = driver.data() + driver.size();
    const char* const point = std::from_chars(driver.data(), end, version.first).ptr;
    if (point != end && *point == '.') std::from_chars(point + 1, end, version.second);
    return version;
}

/// Drivers that run, and that better ones have followed.
struct OldDriver {
    std::string_view name;         // that the driver's begins with
    std::pair<int, int> before;    // of its versions those before
    std::string_view of[2];        // of the devices those whose names contain one of these; the first empty: all
    const char *what, *fix;
};
constexpr OldDriver old_drivers[] = {
    // https://www.phoronix.com/news/RADV-Cooperative-Matrix: of RDNA 3 and newer
    {"radv Mesa ",
     {23, 3},
     {"GFX11", "NAVI3"},
     "has no cooperative matrices yet, so prompts take longer",
     "install Mesa 23.3 or newer (Debian 12: from backports)"},
    // https://github.com/GPUOpen-Drivers/AMDVLK/discussions/416
    {"AMD open-source driver",
     {INT_MAX, 0},
     {"", ""},
     "is AMDVLK, which AMD has given up",
     "install Mesa's Vulkan drivers instead (Debian: mesa-vulkan-drivers)"},
};

Findings driver_versions(const DoctorFacts& f)
{
    Findings out;
    for (const DeviceDescription& d : f.vulkan.devices)
        for (const OldDriver& old : old_drivers) {
            const bool meant =
                std::ranges::any_of(old.of, [&](std::string_view part) { return d.name.find(part) != d.name.npos; });
            if (!d.driver.starts_with(old.name) || !meant || version_behind(old.name, d.driver) >= old.before) continue;
            out.push_back({false, fmt::format("the driver of {} ({}) {}", d.name, d.driver, old.what), old.fix});
        }
    return out;
}

/// Without resizable BAR, the CPU sees 256 MiB of a card's memory.
Findings small_window(const DoctorFacts& f)
{
    constexpr uint64_t usual = 256 << 20;
    Findings out;
    for (const DeviceDescription& d : f.vulkan.devices) {
        if (d.kind != "discrete GPU" || d.memory <= 2 * usual) continue;
        uint64_t window = d.window;
        for (const BusGpu& gpu : f.system.gpus)
            if (gpu.vendor == d.vendor && gpu.number == d.number && gpu.window > 0) window = gpu.window;
        if (window > usual) continue;
        out.push_back(
            {false,
             fmt::format("the CPU reaches {:.0f} MiB of {:.1f} GiB of {}'s memory: resizable BAR is off",
                         double(window) / mib, double(d.memory) / gib, d.name),
             "turn on `Above 4G decoding` and `Resizable BAR` in the firmware (UEFI), where the board has them"});
    }
    return out;
}

Findings narrow_link(const DoctorFacts& f)
{
    Findings out;
    for (const BusGpu& gpu : f.system.gpus)
        if (is_gpu(gpu) && gpu.lanes > 0 && gpu.lanes < 8 && gpu.most_lanes >= 8)
            out.push_back({false,
                           fmt::format("the {} GPU at {} has {} of its {} lanes to the CPU",
                                       vendor_of(gpu.vendor)->name, gpu.slot, gpu.lanes, gpu.most_lanes),
                           "put it into the board's slot with 16 lanes, and take out what shares them"});
    return out;
}

Findings layers(const DoctorFacts& f)
{
    // Part of drivers and of desktops; they only choose among devices.
    static constexpr std::string_view harmless[] = {"VK_LAYER_MESA_device_select", "VK_LAYER_NV_optimus",
                                                    "VK_LAYER_AMD_switchable_graphics"};
    Findings out;
    for (const auto& [name, value] : f.system.environment)
        if (name == "VK_INSTANCE_LAYERS" || name == "VK_LOADER_LAYERS_ENABLE")
            out.push_back({false,
                           fmt::format("{}={} puts layers between Hearth and the driver, which cost time at each "
                                       "call",
                                       name, value),
                           fmt::format("unset {}", name)});
    std::set<std::string> said;
    for (const ImplicitLayer& layer : f.system.layers) {
        const bool known =
            std::ranges::any_of(harmless, [&](std::string_view name) { return layer.name.starts_with(name); });
        if (known || !said.insert(layer.name).second) continue;
        out.push_back(
            {false,
             fmt::format("the layer {} is loaded into every Vulkan program, and costs time at each call", layer.name),
             layer.off.empty() ? fmt::format("set VK_LOADER_LAYERS_DISABLE={}", layer.name)
                               : fmt::format("set {}=1, or remove what brought it", layer.off)});
    }
    return out;
}

// ---- the model and what `tune` and `profile` found -----------------------------------------------------------------

Findings machine_figures(const DoctorFacts& f)
{
    const DeviceDescription* const used = chosen(f);
    if (!used || is_software(*used)) return {};    // plans for the CPU alone need no figures
    const MeasuredMachine* other = nullptr;
    for (const MeasuredMachine& m : f.measured) {
        if (m.device != used->name) continue;
        const bool same_system = m.system.empty() || f.system.system.empty() || m.system == f.system.system;
        if (m.driver == used->driver && m.threads == f.threads && same_system) return {};
        other = &m;
    }
    const std::string fix = "run `hearth tune`, which takes twenty seconds";
    if (!other)
        return {{false, fmt::format("{} was never measured, so plans do not know what is fastest", used->name), fix}};
    if (other->driver != used->driver)
        return {
            {false,
             fmt::format("{} was measured with the driver {}, and has {} now", used->name, other->driver, used->driver),
             fix}};
    if (other->threads != f.threads)
        return {
            {false,
             fmt::format("this machine was measured with {} threads, and {} are used now", other->threads, f.threads),
             fix}};
    return {{false, fmt::format("this machine was measured under {}, and runs {} now", other->system, f.system.system),
             fix}};
}

Findings model(const DoctorFacts& f)
{
    if (!f.model) return {};
    const ModelState& m = *f.model;
    Findings out;
    if (!m.problem.empty()) out.push_back({true, m.problem, ""});
    if (m.has_profile && m.profile_is_older)
        out.push_back({false, fmt::format("the profile of {} is older than the model", m.name),
                       "run `hearth profile` again if the model is another one now"});
    if (m.firing_matters && !m.has_profile)
        out.push_back({false, fmt::format("nobody has measured which neurons of {} fire, so any go to the GPU", m.name),
                       "run `hearth profile MODEL -f TEXT` once"});
    return out;
}

Findings spill(const DoctorFacts& f)
{
    const DeviceDescription* const used = chosen(f);
    if (!f.model || !used || f.model->device_bytes <= used->free_memory) return {};
    return {{true,
             fmt::format("the plan takes {:.1f} GiB of {}'s memory and {:.1f} GiB are free: the driver would move the "
                         "rest to the CPU's memory",
                         double(f.model->device_bytes) / gib, used->name, double(used->free_memory) / gib),
             "give a smaller --vram-budget, or close what else uses the GPU"}};
}

// ---- memory, processors, disk ---------------------------------------------------------------------------------------

Findings memory(const DoctorFacts& f)
{
    const SystemFacts& s = f.system;
    if (!s.available) return {};
    if (f.model) {
        const uint64_t wanted = f.model->bytes - std::min(f.model->bytes, f.model->device_bytes);
        if (wanted <= *s.available) return {};
        const bool never = s.memory && wanted > *s.memory;
        return {{true,
                 fmt::format("the CPU's share of {} is {:.1f} GiB and {:.1f} GiB of memory are free: the rest would be "
                             "read from the disk for every token",
                             f.model->name, double(wanted) / gib, double(*s.available) / gib),
                 never ? "take a smaller model or type (`hearth quantize`), or add memory" : "close other programs"}};
    }
    if (*s.available >= 2 * gib) return {};
    return {
        {false, fmt::format("only {:.1f} GiB of memory are free", double(*s.available) / gib), "close other programs"}};
}

/// Swap that filled up long ago does no harm; where memory is short, too, it is being used.
Findings swapping(const DoctorFacts& f)
{
    const SystemFacts& s = f.system;
    if (!s.swap_used || !s.memory || !s.available) return {};
    if (*s.swap_used < *s.memory / 20 || *s.available > *s.memory / 5) return {};
    return {{false,
             fmt::format("{:.1f} GiB are swapped out and only {:.1f} of {:.1f} GiB of memory are free",
                         double(*s.swap_used) / gib, double(*s.available) / gib, double(*s.memory) / gib),
             "close other programs: what Hearth reads for every token must stay in memory"}};
}

Findings clocks(const DoctorFacts& f)
{
    Findings out;
    std::set<std::string> said;
    const auto say = [&](std::string what, std::string fix) {
        if (said.insert(what).second) out.push_back({false, std::move(what), std::move(fix)});
    };
    for (const CpuClock& c : f.system.clocks) {
        // Drivers that choose by themselves call their usual way "powersave"; for others it is the lowest clock there
        // is.
        const bool chooses = c.driver == "intel_pstate" || c.driver == "amd-pstate-epp";
        if (c.governor == "powersave" && !chooses)
            say("the processor is kept at its lowest clock (governor powersave)",
                "sudo cpupower frequency-set -g schedutil, or powerprofilesctl set balanced");
        if (chooses && c.governor == "powersave" && c.preference == "power")
            say("the processor prefers saving power (energy_performance_preference power)",
                "powerprofilesctl set balanced, or set it to balance_performance");
        if (c.limit_khz > 0 && c.most_khz > 0 && c.limit_khz < c.most_khz / 10 * 8)
            say(fmt::format("the processor's clock is limited to {:.1f} of {:.1f} GHz", double(c.limit_khz) / 1e6,
                            double(c.most_khz) / 1e6),
                "sudo cpupower frequency-set -u with the higher value");
    }
    if (f.system.platform_profile == "low-power" || f.system.platform_profile == "quiet")
        say(fmt::format("the firmware's profile is {}", f.system.platform_profile),
            "powerprofilesctl set balanced or performance");
    if (f.system.on_mains == false) say("the machine runs on its battery", "plug it in");
    return out;
}

Findings processors(const DoctorFacts& f)
{
    const SystemFacts& s = f.system;
    Findings out;
    if (s.quota && s.cores > 0 && *s.quota < s.cores)
        out.push_back({false,
                       fmt::format("the control group gives {:.1f} processors' time of {} cores", *s.quota, s.cores),
                       "raise its quota (cpu.max; docker run --cpus, CPUQuota= of systemd)"});
    if (s.allowed_cores > 0 && s.allowed_cores < s.cores)
        out.push_back({false, fmt::format("this process may run on {} of {} cores", s.allowed_cores, s.cores),
                       "start it without taskset, or with a larger cpuset"});
    return out;
}

Findings disk(const DoctorFacts& f)
{
    if (!f.system.storage) return {};
    const Storage& s = *f.system.storage;
    const char* const kind = s.remote       ? "another machine or system"
                             : s.rotational ? "a disk that turns"
                             : s.usb        ? "a disk on USB"
                                            : nullptr;
    if (!kind) return {};
    return {{false, fmt::format("the model lies on {} ({}, {}): opening it takes long", kind, s.name, s.filesystem),
             "copy it to a disk of this machine that is flash"}};
}

constexpr Findings (*conditions[])(const DoctorFacts&) = {no_loader,
                                                          gpus_without_driver,
                                                          unfit_devices,
                                                          software_only,
                                                          device_not_found,
                                                          integrated_chosen,
                                                          software_chosen,
                                                          driver_versions,
                                                          model,
                                                          spill,
                                                          memory,
                                                          swapping,
                                                          machine_figures,
                                                          small_window,
                                                          narrow_link,
                                                          layers,
                                                          clocks,
                                                          processors,
                                                          disk};

}    // namespace

std::vector<Finding> findings(const DoctorFacts& facts)
{
    Findings all;
    for (const auto condition : conditions) {
        Findings some = condition(facts);
        std::ranges::move(some, std::back_inserter(all));
    }
    std::ranges::stable_sort(all, std::greater(), &Finding::stops);
    return all;
}

}    // namespace hearth::tools
