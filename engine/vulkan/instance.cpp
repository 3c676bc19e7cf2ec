#include "engine/vulkan/device.h"
#include "engine/vulkan/physical_device.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <tuple>
#include <utility>

namespace hearth::vulkan {

std::string_view kind_name(DeviceKind kind)
{
    switch (kind) {
    case DeviceKind::discrete: return "discrete GPU";
    case DeviceKind::integrated: return "integrated GPU";
    case DeviceKind::software: return "software device";
    case DeviceKind::other: break;
    }
    return "other device";
}

// ---- choosing a device ----------------------------------------------------------------------------------------------

namespace {

bool contains_ignoring_case(std::string_view text, std::string_view part)
{
    return std::search(text.begin(), text.end(), part.begin(), part.end(), [](unsigned char a, unsigned char b) {
               return std::tolower(a) == std::tolower(b);
           }) != text.end();
}

/// Whether it is another one's GPU, which is better used by that.
bool is_double(const std::vector<DeviceInfo>& devices, const DeviceInfo& d)
{
    return d.layered && !d.luid.empty() && std::ranges::any_of(devices, [&](const DeviceInfo& other) {
               return !other.layered && other.luid == d.luid && other.unfit.empty();
           });
}

DeviceChoice choose_best(const std::vector<DeviceInfo>& devices, const MeasuredRate& measured)
{
    DeviceChoice choice{.index = {}, .reason = devices.empty() ? "no Vulkan device was found" : ""};
    std::vector<size_t> usable;
    for (size_t i = 0; i < devices.size(); ++i) {
        const DeviceInfo& d = devices[i];
        if (!d.unfit.empty() || d.kind == DeviceKind::software)
            choice.reason +=
                fmt::format("{}{} {}", choice.reason.empty() ? "" : "; ", d.name,
                            d.unfit.empty() ? "is a software device, which is used only when named" : d.unfit);
        else if (!is_double(devices, d)) usable.push_back(i);
    }
    if (usable.empty()) return choice;
    size_t best = *std::ranges::max_element(
        usable, {}, [&](size_t i) { return std::tuple(-int(devices[i].kind), devices[i].memory, -int64_t(i)); });
    choice.reason = fmt::format("the best of {} Vulkan device{}", devices.size(), devices.size() == 1 ? "" : "s");
    if (measured && usable.size() > 1) {
        std::vector<double> rates(devices.size());    // each is a file to be read
        for (size_t i : usable) rates[i] = measured(devices[i]);
        const size_t fastest = *std::ranges::max_element(usable, {}, [&](size_t i) { return rates[i]; });
        if (rates[best] > 0 && rates[fastest] > rates[best]) {
            choice.reason = fmt::format("the fastest of those that were measured: {:.0f} GB/s, where {} has {:.0f}",
                                        rates[fastest], devices[best].name, rates[best]);
            best = fastest;
        }
    }
    choice.index = best;
    std::string others;
    for (size_t i : usable)
        if (i != best) others += fmt::format("{}{} (--device {})", others.empty() ? "" : ", ", devices[i].name, i);
    if (!others.empty()) choice.reason += fmt::format("; unused: {}", others);
    return choice;
}

}    // namespace

DeviceChoice choose_device(const std::vector<DeviceInfo>& devices, std::string_view wanted,
                           const MeasuredRate& measured)
{
    if (wanted == "auto") return choose_best(devices, measured);

    std::vector<size_t> found;
    size_t number = 0;
    const auto [end, ec] = std::from_chars(wanted.data(), wanted.data() + wanted.size(), number);
    if (ec == std::errc() && end == wanted.data() + wanted.size()) {
        if (number < devices.size()) found.push_back(number);
    } else {
        for (size_t i = 0; i < devices.size(); ++i)
            if ((devices[i].luid == wanted || contains_ignoring_case(devices[i].name, wanted)) &&
                !is_double(devices, devices[i]))
                found.push_back(i);
    }
    if (found.empty())
        throw Error("no device is called '{}': `hearth devices` lists the {} there are", wanted, devices.size());
    if (found.size() > 1) throw Error("'{}' names {} devices: use an index of `hearth devices`", wanted, found.size());
    const DeviceInfo& d = devices[found[0]];
    if (!d.unfit.empty())
        throw Error("{} cannot be used: it {}; update its driver or use --device cpu", d.name, d.unfit);
    return {found[0], "as asked"};
}

// ---- instance -------------------------------------------------------------------------------------------------------

struct MessageSink {
    static VKAPI_ATTR VkBool32 VKAPI_CALL receive(VkDebugUtilsMessageSeverityFlagBitsEXT,
                                                  VkDebugUtilsMessageTypeFlagsEXT,
                                                  const VkDebugUtilsMessengerCallbackDataEXT* data, void* instance)
    {
        auto& self = *static_cast<Instance*>(instance);
        const std::lock_guard lock(self.mutex_);
        self.messages_.emplace_back(data->pMessage);
        return VK_FALSE;
    }
};

std::shared_ptr<Instance> Instance::open(const InstanceOptions& options, std::string& why_not)
{
    const auto get = open_loader();
    if (!get) {
        why_not = "this machine has no Vulkan loader (libvulkan)";
        return nullptr;
    }
    const auto create = reinterpret_cast<PFN_vkCreateInstance>(get(nullptr, "vkCreateInstance"));
    HEARTH_CHECK(create);

    const char* layer = "VK_LAYER_KHRONOS_validation";
    const char* extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    const VkValidationFeatureEnableEXT enable = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
    VkValidationFeaturesEXT validation = {.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
                                          .enabledValidationFeatureCount = 1,
                                          .pEnabledValidationFeatures = &enable};
    const VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .pApplicationName = "hearth", .apiVersion = VK_API_VERSION_1_3};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    if (options.validation) {
        info.pNext = &validation;
        info.enabledLayerCount = 1;
        info.ppEnabledLayerNames = &layer;
        info.enabledExtensionCount = 1;
        info.ppEnabledExtensionNames = &extension;
    }

    std::shared_ptr<Instance> self(new Instance);
    const VkResult result = create(&info, nullptr, &self->handle_);
    if (result == VK_ERROR_LAYER_NOT_PRESENT)
        throw Error("the Vulkan validation layers are not installed (Debian: vulkan-validationlayers)");
    if (result != VK_SUCCESS) {
        why_not = result == VK_ERROR_INCOMPATIBLE_DRIVER ? "this machine has no Vulkan driver"
                                                         : fmt::format("Vulkan does not start (error {})", int(result));
        return nullptr;
    }
    InstanceApi& api = self->api_;
#define X(name)                                                                                                        \
    api.name = reinterpret_cast<PFN_vk##name>(get(self->handle_, "vk" #name));                                         \
    HEARTH_CHECK(api.name);
    HEARTH_INSTANCE_FUNCTIONS(X)
#undef X
    if (options.validation) {
        api.CreateDebugUtilsMessengerEXT =
            reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(get(self->handle_, "vkCreateDebugUtilsMessengerEXT"));
        api.DestroyDebugUtilsMessengerEXT = reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
            get(self->handle_, "vkDestroyDebugUtilsMessengerEXT"));
        const VkDebugUtilsMessengerCreateInfoEXT messenger = {
            .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
            .messageSeverity =
                VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
            .pfnUserCallback = MessageSink::receive,
            .pUserData = self.get(),
        };
        check_result(api.CreateDebugUtilsMessengerEXT(self->handle_, &messenger, nullptr, &self->messenger_),
                     "vkCreateDebugUtilsMessengerEXT");
    }
    api.GetPhysicalDeviceCooperativeMatrixPropertiesKHR =
        reinterpret_cast<PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
            get(self->handle_, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
    return self->look_at_devices(why_not) ? self : nullptr;
}

Instance::~Instance()
{
    if (messenger_) api_.DestroyDebugUtilsMessengerEXT(handle_, messenger_, nullptr);
    if (handle_) api_.DestroyInstance(handle_, nullptr);
}

std::vector<std::string> Instance::take_messages()
{
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
}

bool Instance::look_at_devices(std::string& why_not)
{
    uint32_t count = 0;
    VkResult result = api_.EnumeratePhysicalDevices(handle_, &count, nullptr);
    std::vector<VkPhysicalDevice> handles(count);
    if (result == VK_SUCCESS && count > 0) result = api_.EnumeratePhysicalDevices(handle_, &count, handles.data());
    if (result != VK_SUCCESS) {    // a driver without its GPU is often answered so
        why_not = fmt::format("Vulkan finds no device (error {})", int(result));
        return false;
    }
    for (VkPhysicalDevice handle : handles) devices_.push_back(look_at(api_, handle));
    return true;
}

}    // namespace hearth::vulkan
