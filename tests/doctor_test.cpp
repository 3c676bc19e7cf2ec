// What `hearth doctor` finds: facts from trees as systems have them, and what is said of them.
#include "tools/hearth/doctor.h"
#include "tests/support.h"

#include <map>

using namespace hearth;
using namespace hearth::tests;
using namespace hearth::tools;

namespace {

namespace fs = std::filesystem;

constexpr uint64_t gib = 1ull << 30;

/// Trees of a good machine with an RTX 4090, which tests make worse.
struct Tree {
    TemporaryFolder folder;
    fs::path root = folder / "";
    std::map<std::string, std::string> variables;

    Tree()
    {
        put("proc/sys/kernel/ostype", "Linux\n");
        put("proc/sys/kernel/osrelease", "6.12.0\n");
        meminfo(64 * gib, 60 * gib, 8 * gib, 8 * gib);
        put("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-7\n");
        for (int cpu = 0; cpu < 8; ++cpu) {
            put(fmt::format("sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu),
                fmt::format("{}\n", cpu));
            clock(cpu, "amd-pstate-epp", "powersave", "balance_performance", 5'700'000);
        }
        put("sys/class/power_supply/AC/type", "Mains\n");
        put("sys/class/power_supply/AC/online", "1\n");
        mounts("259:2 / / rw - ext4 /dev/nvme0n1p2 rw");
        put("sys/dev/block/259:2/partition", "2\n");
        put("sys/dev/block/queue/rotational", "0\n");
        card(32ull << 30, 16);
        put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.16  Fri Jan 24\n");
        put("usr/share/vulkan/icd.d/nvidia_icd.json", "{}");
        put("usr/share/vulkan/implicit_layer.d/select.json",
            R"({"layer": {"name": "VK_LAYER_MESA_device_select", "disable_environment": {"NODEVICE_SELECT": "1"}}})");
    }

    void put(const fs::path& path, const std::string& text)
    {
        fs::create_directories((root / path).parent_path());
        std::ofstream(root / path, std::ios::binary) << text;
    }
    void meminfo(uint64_t memory, uint64_t available, uint64_t swap, uint64_t swap_free)
    {
        put("proc/meminfo", fmt::format("MemTotal: {} kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: {} kB\n",
                                        memory >> 10, available >> 10, swap >> 10, swap_free >> 10));
    }
    void clock(int cpu, const char* driver, const char* governor, const char* preference, uint64_t limit)
    {
        const fs::path at = fmt::format("sys/devices/system/cpu/cpu{}/cpufreq", cpu);
        put(at / "scaling_driver", fmt::format("{}\n", driver));
        put(at / "scaling_governor", fmt::format("{}\n", governor));
        put(at / "energy_performance_preference", fmt::format("{}\n", preference));
        put(at / "scaling_max_freq", fmt::format("{}\n", limit));
        put(at / "cpuinfo_max_freq", "5700000\n");
    }
    void mounts(const std::string& model_mount)
    {
        put("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n"
                                   "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n40 1 " +
                                       model_mount + "\n");
        put("proc/self/cgroup", "0::/\n");
    }
    /// Behind a bridge, as cards are.
    void card(uint64_t window, int lanes)
    {
        const fs::path bridge = "sys/devices/pci0000:00/0000:00:01.0", gpu = bridge / "0000:01:00.0";
        put(bridge / "vendor", "0x1022\n");
        put(bridge / "current_link_width", fmt::format("{}\n", lanes));
        put(gpu / "vendor", "0x10de\n");
        put(gpu / "device", "0x2684\n");
        put(gpu / "class", "0x030000\n");
        put(gpu / "resource", fmt::format("0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"
                                          "0x{:016x} 0x{:016x} 0x000000000014220c\n"
                                          "0x0000000000003000 0x000000000000307f 0x0000000000040101\n",
                                          0x6000000000ull, 0x6000000000ull + window - 1));
        put(gpu / "current_link_width", "16\n");
        put(gpu / "max_link_width", "16\n");
        fs::create_directories(root / "sys/bus/pci/drivers/nvidia");
        fs::create_directories(root / "sys/bus/pci/devices");
        link("sys/bus/pci/drivers/nvidia", gpu / "driver");
        link(gpu, "sys/bus/pci/devices/0000:01:00.0");
    }
    void link(const fs::path& to, const fs::path& from)
    {
        fs::remove(root / from);
        fs::create_symlink(root / to, root / from);
    }

    DoctorFacts facts(const std::string& model = "/models/a.gguf") const
    {
        const auto environment = [this](const std::string& name) {
            const auto found = variables.find(name);
            return found == variables.end() ? "" : found->second;
        };
        DoctorFacts f = {.system = read_system_facts(root, environment, model), .threads = 8};
        f.vulkan = {.devices = {{.name = "NVIDIA GeForce RTX 4090",
                                 .driver = "NVIDIA 570.86.16",
                                 .kind = "discrete GPU",
                                 .vendor = 0x10de,
                                 .number = 0x2684,
                                 .memory = 24 * gib,
                                 .free_memory = 23 * gib,
                                 .window = 24 * gib,
                                 .subgroup_size = 32,
                                 .min_subgroup_size = 32,
                                 .max_subgroup_size = 32,
                                 .fp16 = true,
                                 .int_dot = true,
                                 .matrices = true,
                                 .unfit = ""}},
                    .loader = true,
                    .chosen = 0,
                    .reason = "the best of 1 Vulkan device",
                    .refused = ""};
        f.measured = {{"NVIDIA GeForce RTX 4090", "NVIDIA 570.86.16", "Linux 6.12.0", 8}};
        f.model = ModelState{.name = "a.gguf",
                             .problem = "",
                             .bytes = 40 * gib,
                             .device_bytes = 20 * gib,
                             .firing_matters = true,
                             .has_profile = true};
        return f;
    }
};

DeviceDescription software_device()
{
    return {.name = "llvmpipe",
            .driver = "llvmpipe Mesa 25.0.7",
            .kind = "software device",
            .vendor = 0x10005,
            .number = 0,
            .memory = gib,
            .free_memory = gib,
            .window = gib,
            .subgroup_size = 8,
            .min_subgroup_size = 8,
            .max_subgroup_size = 8,
            .fp16 = true,
            .int_dot = true,
            .matrices = false,
            .unfit = ""};
}

void no_devices(DoctorFacts& f)
{
    f.vulkan.devices.clear();
    f.vulkan.chosen.reset();
}

/// What is found, one line each: "stops: what: fix".
std::string lines(const DoctorFacts& f)
{
    std::string out;
    for (const Finding& finding : findings(f))
        out += fmt::format("{}: {}: {}\n", finding.stops ? "stops" : "slows", finding.what, finding.fix);
    return out;
}

/// That something is found, just that, and that it says so.
void check_only(const DoctorFacts& f, bool stops, const std::string& what, const std::string& fix)
{
    const std::vector<Finding> found = findings(f);
    INFO(lines(f));
    REQUIRE(found.size() == 1);
    CHECK(found[0].stops == stops);
    CHECK(found[0].what.find(what) != std::string::npos);
    CHECK(found[0].fix.find(fix) != std::string::npos);
}

}    // namespace

TEST_SUITE("doctor")
{
    TEST_CASE("the doctor reads what Linux says of a machine, and has nothing to say of a good one")
    {
        const Tree tree;
        const DoctorFacts f = tree.facts();
        const SystemFacts& s = f.system;
        CHECK(s.system == "Linux 6.12.0");
        CHECK(s.memory == 64 * gib);
        CHECK(s.available == 60 * gib);
        CHECK(s.swap == 8 * gib);
        CHECK(s.swap_used == 0);
        CHECK(s.cores == 8);
        CHECK(s.allowed_cores == 8);
        CHECK(!s.quota);
        REQUIRE(s.clocks.size() == 1);
        CHECK(s.clocks[0] == CpuClock{"amd-pstate-epp", "powersave", "balance_performance", 5'700'000, 5'700'000});
        CHECK(s.on_mains == true);
        REQUIRE(s.gpus.size() == 1);
        CHECK(s.gpus[0] == BusGpu{"0000:01:00.0", 0x10de, 0x2684, "nvidia", 32 * gib, 16, 16});
        CHECK(s.nvidia_module == "570.86.16");
        REQUIRE(s.layers.size() == 1);
        CHECK(s.layers[0].off == "NODEVICE_SELECT");
        REQUIRE(s.storage);
        CHECK(s.storage->filesystem == "ext4");
        CHECK(!s.storage->rotational);
        CHECK(lines(f) == "");
    }

    TEST_CASE("a system that says nothing is not complained of")
    {
        const TemporaryFolder empty;
        const DoctorFacts f = {.system = read_system_facts(
                                   empty / "", [](const std::string&) { return ""; }, "/models/a.gguf"),
                               .vulkan = {.devices = {}, .loader = true, .chosen = {}, .reason = "", .refused = ""},
                               .measured = {},
                               .threads = 1,
                               .model = {}};
        CHECK(lines(f) == "");
    }

    TEST_CASE("a GPU without a loader, or without its driver, is found with what is missing")
    {
        Tree tree;
        DoctorFacts f = tree.facts();
        no_devices(f);
        f.model.reset();
        DoctorFacts without_loader = f;
        without_loader.vulkan.loader = false;
        check_only(without_loader, true, "no Vulkan loader", "libvulkan1");
        without_loader.system.gpus.clear();
        check_only(without_loader, false, "no Vulkan loader", "libvulkan1");    // a machine without a GPU goes on

        check_only(f, true, "does not see the NVIDIA GPU at 0000:01:00.0 (the kernel's driver is nvidia)",
                   "570.86.16 may be of another version");
        f.system.nvidia_module.reset();
        check_only(f, true, "does not see", "kernel module is not loaded");
        f.system.vulkan_drivers.clear();
        check_only(f, true, "does not see", "install NVIDIA's own driver");
        f.system.gpus[0].kernel_driver = "vfio-pci";
        check_only(f, true, "does not see", "virtual machines");
        f.system.closed_nodes = {"/dev/dri/renderD128"};
        check_only(f, true, "does not see", "group that /dev/dri/renderD128");
        tree.variables["VK_DRIVER_FILES"] = "/usr/share/vulkan/icd.d/lvp_icd.json";
        f.system.environment = tree.facts().system.environment;
        check_only(f, true, "does not see", "unset VK_DRIVER_FILES");

        DoctorFacts amd = tree.facts();
        amd.system.environment.clear();
        amd.system.gpus.push_back({.slot = "0000:03:00.0", .vendor = 0x1002, .number = 0x744c, .kernel_driver = ""});
        check_only(amd, false, "does not see the AMD GPU at 0000:03:00.0 (no kernel driver has it)",
                   "mesa-vulkan-drivers");    // there is another
        amd.system.gpus.back().kernel_driver = "radeon";
        check_only(amd, false, "radeon", "amdgpu.si_support=1");
        amd.system.gpus.back().vendor = 0x1a03;    // the adapter of a server's maintenance
        CHECK(lines(amd) == "");
    }

    TEST_CASE("devices that compute on the CPU, that cannot be used or that are not the best are found")
    {
        const Tree tree;
        DoctorFacts f = tree.facts();
        f.model.reset();
        DoctorFacts software = f;
        no_devices(software);
        software.vulkan.devices = {software_device()};
        CHECK(lines(software).find("stops: the only Vulkan device is llvmpipe") != std::string::npos);
        software.system.gpus.clear();
        check_only(software, false, "the only Vulkan device is llvmpipe", "the CPU is used alone");
        software.vulkan.devices.push_back(f.vulkan.devices[0]);
        software.vulkan.chosen = 0;
        CHECK(lines(software).find("stops: llvmpipe is chosen") != std::string::npos);

        DoctorFacts unfit = f;
        unfit.vulkan.devices[0].unfit = "speaks Vulkan 1.1 and 1.3 is needed";
        unfit.vulkan.chosen.reset();
        check_only(unfit, true, "RTX 4090 cannot be used: it speaks Vulkan 1.1", "update its driver");

        DoctorFacts integrated = f;
        DeviceDescription small = f.vulkan.devices[0];
        small.name = "Intel UHD 770", small.driver = "Intel open-source Mesa driver", small.kind = "integrated GPU";
        integrated.vulkan.devices.push_back(small);
        CHECK(lines(integrated) == "");
        integrated.vulkan.chosen = 1;
        integrated.measured.push_back({small.name, small.driver, "", 8});
        check_only(integrated, true, "Intel UHD 770 is chosen, which shares the CPU's memory", "RTX 4090");

        DoctorFacts refused = f;
        refused.vulkan.chosen.reset();
        refused.vulkan.refused = "no device is called '7': `hearth devices` lists the 1 there are";
        check_only(refused, true, "no device is called '7'", "");
    }

    TEST_CASE("drivers that better ones have followed are found by their versions")
    {
        const Tree tree;
        const auto with = [&](const char* name, const char* driver) {
            DoctorFacts f = tree.facts();
            f.vulkan.devices[0].name = name, f.vulkan.devices[0].driver = driver;
            f.measured = {{name, driver, "", 8}};
            return f;
        };
        check_only(with("AMD Radeon RX 7900 XTX (RADV NAVI31)", "radv Mesa 22.3.6"), false, "no cooperative matrices",
                   "23.3");
        CHECK(lines(with("AMD Radeon RX 7900 XTX (RADV NAVI31)", "radv Mesa 23.3.1")) == "");
        CHECK(lines(with("AMD Radeon RX 7900 XTX (RADV NAVI31)", "radv Mesa 25.0.7")) == "");
        CHECK(lines(with("AMD Radeon RX 6800 XT (RADV NAVI21)", "radv Mesa 22.3.6")) == "");
        check_only(with("AMD Radeon RX 6800 XT", "AMD open-source driver 2024.Q4.2 (LLPC)"), false, "AMDVLK",
                   "mesa-vulkan-drivers");
    }

    TEST_CASE("a small window to a card's memory and a narrow link are found")
    {
        Tree tree;
        tree.card(256 << 20, 16);
        check_only(tree.facts(), false, "reaches 256 MiB of 24.0 GiB", "Resizable BAR");
        DoctorFacts elsewhere = tree.facts();    // where only Vulkan says so
        elsewhere.system.gpus.clear();
        CHECK(lines(elsewhere) == "");
        elsewhere.vulkan.devices[0].window = 214 << 20;
        check_only(elsewhere, false, "reaches 214 MiB", "Resizable BAR");
        tree.card(32 * gib, 4);
        check_only(tree.facts(), false, "has 4 of its 16 lanes", "16 lanes");
    }

    TEST_CASE("layers between the program and the driver are found, unless something keeps them away")
    {
        Tree tree;
        tree.variables["VK_INSTANCE_LAYERS"] = "VK_LAYER_KHRONOS_validation";
        check_only(tree.facts(), false, "VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation", "unset VK_INSTANCE_LAYERS");
        tree.variables = {{"VK_LOADER_LAYERS_ENABLE", "*validation*"}};
        check_only(tree.facts(), false, "VK_LOADER_LAYERS_ENABLE", "unset");
        tree.variables.clear();
        tree.put("etc/vulkan/implicit_layer.d/overlay.json",
                 R"({"layers": [{"name": "VK_LAYER_overlay", "disable_environment": {"NO_OVERLAY": "1"}},
                                {"name": "VK_LAYER_asked", "enable_environment": {"ASKED": "1"},
                                 "disable_environment": {"NOT_ASKED": "1"}}]})");
        tree.put("etc/vulkan/implicit_layer.d/broken.json", "{");
        check_only(tree.facts(), false, "VK_LAYER_overlay", "set NO_OVERLAY=1");
        tree.variables["NO_OVERLAY"] = "yes";
        CHECK(lines(tree.facts()) == "");
        tree.variables["ASKED"] = "0";
        CHECK(lines(tree.facts()) == "");
        tree.variables["ASKED"] = "1";
        check_only(tree.facts(), false, "VK_LAYER_asked", "set NOT_ASKED=1");
        tree.variables["VK_LOADER_LAYERS_DISABLE"] = "~implicit~";
        CHECK(lines(tree.facts()) == "");
        tree.variables = {{"HOME", (tree.root / "home").string()}};
        tree.put("home/.local/share/vulkan/implicit_layer.d/mine.json", R"({"layer": {"name": "VK_LAYER_mine"}})");
        CHECK(lines(tree.facts()).find("VK_LAYER_mine is loaded into every Vulkan program") != std::string::npos);
    }

    TEST_CASE("short memory is found, by itself, with swap, and beside a model")
    {
        Tree tree;
        tree.meminfo(64 * gib, 10 * gib, 8 * gib, 8 * gib);
        check_only(tree.facts(), true, "the CPU's share of a.gguf is 20.0 GiB and 10.0 GiB", "close other programs");
        tree.meminfo(16 * gib, 10 * gib, 8 * gib, 8 * gib);
        check_only(tree.facts(), true, "20.0 GiB and 10.0 GiB of memory are free", "add memory");
        DoctorFacts alone = tree.facts("");
        alone.model.reset();
        CHECK(lines(alone) == "");
        tree.meminfo(16 * gib, gib, 0, 0);
        alone.system = tree.facts("").system;
        check_only(alone, false, "only 1.0 GiB of memory are free", "close");
        tree.meminfo(16 * gib, 3 * gib, 8 * gib, 4 * gib);
        alone.system = tree.facts("").system;
        check_only(alone, false, "4.0 GiB are swapped out", "close");
        tree.meminfo(16 * gib, 12 * gib, 8 * gib, 4 * gib);    // long ago
        alone.system = tree.facts("").system;
        CHECK(lines(alone) == "");
    }

    TEST_CASE("processors that are slowed down, or of which only some may be used, are found")
    {
        Tree tree;
        tree.clock(3, "acpi-cpufreq", "powersave", "", 5'700'000);
        check_only(tree.facts(), false, "lowest clock", "schedutil");
        tree.clock(3, "intel_pstate", "powersave", "power", 5'700'000);
        check_only(tree.facts(), false, "prefers saving power", "balanced");
        tree.clock(3, "intel_pstate", "powersave", "balance_power", 2'000'000);
        check_only(tree.facts(), false, "limited to 2.0 of 5.7 GHz", "cpupower");
        tree.clock(3, "acpi-cpufreq", "schedutil", "", 5'700'000);
        CHECK(lines(tree.facts()) == "");
        tree.put("sys/firmware/acpi/platform_profile", "low-power\n");
        check_only(tree.facts(), false, "firmware's profile is low-power", "performance");
        tree.put("sys/firmware/acpi/platform_profile", "balanced\n");
        tree.put("sys/class/power_supply/AC/online", "0\n");
        check_only(tree.facts(), false, "on its battery", "plug it in");
        tree.put("sys/class/power_supply/AC/online", "1\n");
        tree.put("sys/fs/cgroup/cpu.max", "250000 100000\n");
        check_only(tree.facts(), false, "gives 2.5 processors' time of 8 cores", "cpu.max");
        tree.put("sys/fs/cgroup/cpu.max", "max 100000\n");
        tree.put("proc/self/status", "Cpus_allowed_list:\t0,2-3\n");
        check_only(tree.facts(), false, "may run on 3 of 8 cores", "taskset");
    }

    TEST_CASE("a slow disk is found by the mount that the model lies in")
    {
        Tree tree;
        tree.put("sys/dev/block/queue/rotational", "1\n");
        check_only(tree.facts(), false, "a disk that turns (259:2, ext4)", "flash");
        tree.put("sys/devices/virtio0/block/vda/queue/rotational", "1\n");    // whatever it is
        fs::create_directories(tree.root / "sys/dev/block");
        tree.link("sys/devices/virtio0/block/vda", "sys/dev/block/254:0");
        tree.mounts("254:0 / / rw - ext4 /dev/vda rw");
        CHECK(lines(tree.facts()) == "");
        tree.put("sys/dev/block/queue/rotational", "0\n");
        tree.mounts("0:50 / /models rw - nfs4 server:/models rw");
        check_only(tree.facts(), false, "another machine or system (server:/models, nfs4)", "copy it");
        CHECK(lines(tree.facts("/models2/a.gguf")) == "");
        // A file system of several disks, named by one of them, on a part of a disk on USB; the folder has a blank.
        tree.mounts("0:51 / /my\\040models rw - btrfs /dev/sdb1 rw");
        tree.put("sys/devices/pci0000:00/usb2/2-1/block/sdb/sdb1/partition", "1\n");
        tree.put("sys/devices/pci0000:00/usb2/2-1/block/sdb/queue/rotational", "0\n");
        fs::create_directories(tree.root / "sys/class/block");
        tree.link("sys/devices/pci0000:00/usb2/2-1/block/sdb/sdb1", "sys/class/block/sdb1");
        check_only(tree.facts("/my models/a.gguf"), false, "a disk on USB (sdb1, btrfs)", "copy it");
        tree.put("sys/devices/pci0000:00/usb2/2-1/block/sdb/queue/rotational", "1\n");
        check_only(tree.facts("/my models/a.gguf"), false, "a disk that turns (sdb1, btrfs)", "copy it");
    }

    TEST_CASE("figures of another driver, kernel or number of threads are found, and a profile that is missing or old")
    {
        Tree tree;
        DoctorFacts f = tree.facts();
        f.measured[0].driver = "NVIDIA 535.183.01";
        check_only(f, false, "measured with the driver NVIDIA 535.183.01, and has NVIDIA 570.86.16", "hearth tune");
        f.measured[0].driver = "NVIDIA 570.86.16";
        tree.put("proc/sys/kernel/osrelease", "6.13.1\n");
        f.system.system = tree.facts().system.system;
        check_only(f, false, "measured under Linux 6.12.0, and runs Linux 6.13.1", "hearth tune");
        f.measured[0].system = "";    // by an older program
        CHECK(lines(f) == "");
        f.threads = 6;
        check_only(f, false, "measured with 8 threads, and 6 are used now", "hearth tune");
        f.measured.clear();
        check_only(f, false, "never measured", "hearth tune");
        f = tree.facts();
        f.measured.push_back(f.measured[0]);
        f.measured[0].driver = "older";
        f.measured[1].system = "";
        CHECK(lines(f) == "");    // one of several is right

        f = tree.facts();
        f.measured[0].system = "";
        f.model->profile_is_older = true;
        check_only(f, false, "the profile of a.gguf is older", "hearth profile");
        f.model->profile_is_older = f.model->has_profile = false;
        check_only(f, false, "which neurons of a.gguf fire", "hearth profile");
        f.model->firing_matters = false;
        CHECK(lines(f) == "");
    }

    TEST_CASE("a plan that takes more than is free, and a model that cannot be run, stop it and come first")
    {
        Tree tree;
        tree.clock(3, "acpi-cpufreq", "powersave", "", 5'700'000);
        DoctorFacts f = tree.facts();
        f.model->device_bytes = 23 * gib + 1;
        REQUIRE(findings(f).size() == 2);
        CHECK(findings(f)[0].what.find("the plan takes 23.0 GiB") != std::string::npos);
        CHECK(findings(f)[0].stops);
        f.model->device_bytes = 23 * gib;
        CHECK(findings(f).size() == 1);
        f.model->problem = "a.gguf is cut short";
        CHECK(lines(f).starts_with("stops: a.gguf is cut short"));
    }
}
