#include "latency_table.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "text.hpp"

namespace layermerge {
namespace {

// SplitMix64's finaliser (Steele, Lea, Flood 2014), over the integers one after the other.
std::size_t hash(std::span<const std::int64_t> signature) {
    std::uint64_t h = 0;
    for (const std::int64_t integer : signature) {
        h += static_cast<std::uint64_t>(integer) + 0x9e3779b97f4a7c15U;
        h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9U;
        h = (h ^ (h >> 27)) * 0x94d049bb133111ebU;
        h ^= h >> 31;
    }
    return h;
}

std::string tuple(std::span<const std::int64_t> signature) {
    std::string written = "(";
    for (const std::int64_t integer : signature)
        written += (written.size() > 1 ? ", " : "") + std::to_string(integer);
    return written + ")";
}

}  // namespace

LatencyTable::LatencyTable(Signatures signatures, std::span<const std::int64_t> latency_ns)
    : width_(signatures.width), slots_(std::bit_ceil(2 * latency_ns.size() + 1), free_slot) {
    check_width(signatures);
    if (signatures.size() != latency_ns.size())
        throw std::invalid_argument(text("signature and latency_ns must be of one length, got ",
                                         signatures.size(), " and ", latency_ns.size()));
    for (std::size_t row = 0; row < latency_ns.size(); ++row) {
        if (latency_ns[row] < 0)
            throw std::invalid_argument(
                text("latency_ns[", row, "] must be >= 0, got ", latency_ns[row]));
        const std::span<const std::int64_t> signature = signatures.row(row);
        std::size_t& slot = slots_[find_slot(signature)];
        if (slot == free_slot) {
            slot = latency_ns_.size();
            latency_ns_.push_back(latency_ns[row]);
            values_.insert(values_.end(), signature.begin(), signature.end());
        } else if (latency_ns_[slot] != latency_ns[row]) {
            throw std::invalid_argument(text("signature[", row, "] = ", tuple(signature),
                                             " has latency_ns ", latency_ns[row],
                                             ", but an earlier row gives it ", latency_ns_[slot]));
        }
    }
}

std::size_t LatencyTable::find_slot(std::span<const std::int64_t> signature) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash(signature) & mask;
    while (slots_[slot] != free_slot && !std::ranges::equal(stored().row(slots_[slot]), signature))
        slot = (slot + 1) & mask;
    return slot;
}

void LatencyTable::check_width(Signatures signatures) const {
    if (signatures.width == 0 || signatures.width != width_)
        throw std::invalid_argument(text("signature must have ", std::max<std::size_t>(width_, 1),
                                         " columns, got ", signatures.width));
}

std::vector<std::int64_t> LatencyTable::lookup(Signatures signatures) const {
    check_width(signatures);
    std::vector<std::int64_t> latency_ns;
    latency_ns.reserve(signatures.size());
    std::size_t missing = 0, first_missing = 0;
    for (std::size_t row = 0; row < signatures.size(); ++row) {
        const std::size_t index = slots_[find_slot(signatures.row(row))];
        if (index != free_slot)
            latency_ns.push_back(latency_ns_[index]);
        else if (missing++ == 0)
            first_missing = row;
    }
    if (missing > 0)
        throw std::invalid_argument(text("signature[", first_missing,
                                         "] = ", tuple(signatures.row(first_missing)),
                                         " has no latency: ", missing, " of ", signatures.size(),
                                         " signatures are missing from the table. Measure them"));
    return latency_ns;
}

}  // namespace layermerge
