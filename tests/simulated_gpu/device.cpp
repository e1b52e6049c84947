// A device "cuda" with the memory of the computer and the kernels of the CPU; it must be loaded before torch.
//
// PyTorch selects the kernel of an operation by the dispatch keys of its tensors. Its build for CPUs has no kernels for
// the keys of CUDA. This file registers an allocator, the operations that return views, copies, and for all other
// operations a fallback to the kernel of the CPU. An operation on tensors of two devices is an error, as with CUDA.

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/library.h>

#include <cstdlib>
#include <optional>

namespace {

using namespace c10;
constexpr auto GPU = DeviceType::CUDA;
thread_local DeviceIndex current = 0;  // as in CUDA, every thread starts with the first one

DeviceIndex count() {
  const char* value = std::getenv("SIMULATED_GPUS");
  return static_cast<DeviceIndex>(value ? std::atoi(value) : 1);
}

Device checked(Device device) {
  TORCH_CHECK(device.index() < count(), "invalid device ordinal: ", device, " of ", int(count()));
  return Device(GPU, device.index() < 0 ? current : device.index());
}

struct Guard final : impl::NoOpDeviceGuardImpl<GPU> {
  Device exchangeDevice(Device device) const override {
    Device old(GPU, current);
    setDevice(device);
    return old;
  }
  Device getDevice() const override { return Device(GPU, current); }
  void setDevice(Device device) const override { current = checked(device).index(); }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current = device.index();
  }
  // One stream, in which every operation is complete at once.
  Stream getStream(Device device) const noexcept override {
    return Stream(Stream::DEFAULT, Device(GPU, device.index() < 0 ? current : device.index()));
  }
  Stream exchangeStream(Stream stream) const noexcept override { return getStream(stream.device()); }
  DeviceIndex deviceCount() const noexcept override { return count(); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return count(); }
  int getNumGPUs() const override { return count(); }
  DeviceIndex getCurrentDevice() const override { return current; }
  DeviceIndex current_device() const override { return current; }
  Allocator* getPinnedMemoryAllocator() const override { return GetCPUAllocator(); }
  bool isPinnedPtr(const void*) const override { return false; }
};
using at::CUDAHooksArgs;
using at::CUDAHooksInterface;
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)

struct Memory final : Allocator {
  DataPtr allocate(size_t bytes) override {
    DataPtr data = GetCPUAllocator()->allocate(bytes);
    auto deleter = data.get_deleter();
    void* address = data.get();
    return DataPtr(address, data.release_context(), deleter, Device(GPU, current));
  }
  DeleterFnPtr raw_deleter() const override { return GetCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} memory;

using Sizes = IntArrayRef;
using Kind = std::optional<ScalarType>;

at::Tensor empty(Sizes sizes, Kind kind, std::optional<Layout>, std::optional<Device> device, std::optional<bool>,
                 std::optional<MemoryFormat> format) {
  DeviceGuard guard(checked(device.value_or(Device(GPU))));
  return at::detail::empty_generic(sizes, &memory, DispatchKeySet(DispatchKey::CUDA), dtype_or_default(kind), format);
}

at::Tensor empty_strided(Sizes sizes, Sizes strides, Kind kind, std::optional<Layout>, std::optional<Device> device,
                         std::optional<bool>) {
  DeviceGuard guard(checked(device.value_or(Device(GPU))));
  return at::detail::empty_strided_generic(
      sizes, strides, &memory, DispatchKeySet(DispatchKey::CUDA), dtype_or_default(kind));
}

// The same memory, as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& x) {
  return x.is_cpu() ? x : at::from_blob(x.data_ptr(), x.sizes(), x.strides(), x.options().device(at::kCPU));
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor& set_storage(at::Tensor& x, Storage storage, int64_t offset, Sizes sizes, Sizes strides) {
  auto* impl = x.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  impl->set_sizes_and_strides(sizes, strides);
  return x;
}

at::Tensor& set_storage_only(at::Tensor& x, Storage storage) {
  auto items = static_cast<int64_t>(storage.nbytes() / x.dtype().itemsize());
  return set_storage(x, std::move(storage), 0, {items}, {1});
}

at::Tensor& set_tensor(at::Tensor& x, const at::Tensor& other) {
  return set_storage(x, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}

// The fallback writes results to the output tensors of an operation with this; an output of no elements is resized.
at::Tensor copy_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) {
    TORCH_CHECK(to.numel() == 0, "an output of ", to.sizes(), " for a result of ", from.sizes());
    set_tensor(const_cast<at::Tensor&>(to), at::empty_like(from, from.options().device(to.device())));
  }
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

// Every other operation. Only numbers and indices may come from the CPU.
void run_on_cpu(const OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& name = operation.schema().name();
  const bool indexing = name.find("index") != std::string::npos;
  std::optional<Device> gpu;
  auto check = [&](const at::Tensor& x) {
    if (!x.defined() || (x.is_cpu() && (x.dim() == 0 || indexing))) return;
    TORCH_CHECK(x.device().type() == GPU, name, ": a tensor on ", x.device(), " among those on a GPU");
    TORCH_CHECK(!gpu || *gpu == x.device(), name, ": tensors on ", *gpu, " and ", x.device());
    gpu = x.device();
  };
  for (const auto& value : *stack) {
    if (value.isTensor()) check(value.toTensor());
    if (value.isTensorList()) for (const at::Tensor& x : value.toTensorVector()) check(x);
  }
  OptionalDeviceGuard guard(gpu);
  at::native::cpu_fallback(operation, stack);
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy);
  library.impl("_copy_from_and_resize", &copy_and_resize);
  library.impl("_local_scalar_dense", [](const at::Tensor& x) { return on_cpu(x).item(); });
  library.impl("set_.source_Storage", &set_storage_only);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("view", [](const at::Tensor& x, Sizes sizes) { return at::native::view(x, sizes); });
  library.impl("unfold", &at::native::unfold);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("_reshape_alias", [](const at::Tensor& x, Sizes sizes, Sizes strides) {
    return at::native::as_strided_tensorimpl(x, sizes, strides, std::nullopt);
  });
}

// DistributedDataParallel needs a timer.
struct Timer final : c10d::Timer {
  explicit Timer(Device) {}
  std::optional<int64_t> measureDifference(Event start, Event end) override {
    auto start_time = getTimestamp(start), end_time = getTimestamp(end);
    return start_time && end_time ? std::optional<int64_t>(*end_time - *start_time) : std::nullopt;
  }
};

}  // namespace

namespace c10d {
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, ::Timer)
}

extern "C" int simulated_current() { return current; }
extern "C" void simulated_set_current(int index) { current = static_cast<DeviceIndex>(index); }
