#include "assignment/instance.hpp"

#include <algorithm>
#include <numeric>

#include "assignment/twins.hpp"

namespace optalloc::assignment {

Normal normalise(std::span<const Int> costs, std::span<const Int> loads, std::span<const Int> capacities,
                 std::span<const std::uint8_t> allowed) {
    Normal normal;
    Instance& out = normal.instance;
    out.num_units = static_cast<int>(capacities.size());
    out.num_tasks = out.num_units == 0 ? 0 : static_cast<int>(costs.size() / capacities.size());
    const int n = out.num_tasks, m = out.num_units;
    out.cost.assign(costs.size(), 0);
    out.load.assign(costs.size(), 0);
    out.allowed.assign(costs.size(), 0);
    out.capacity.assign(capacities.begin(), capacities.end());
    normal.task_offset.assign(static_cast<std::size_t>(n), 0);

    Int common = 0;
    for (int j = 0; j < n; ++j) {
        const std::size_t row = static_cast<std::size_t>(j) * static_cast<std::size_t>(m);
        bool any = false;
        Int low = 0;
        for (int i = 0; i < m; ++i) {
            const std::size_t from = row + static_cast<std::size_t>(i), to = out.at(i, j);
            if (!allowed[from] || loads[from] > capacities[static_cast<std::size_t>(i)]) continue;
            out.allowed[to] = 1;
            out.load[to] = loads[from];
            low = any ? std::min(low, costs[from]) : costs[from];
            any = true;
        }
        for (int i = 0; i < m; ++i) {
            const std::size_t from = row + static_cast<std::size_t>(i), to = out.at(i, j);
            if (!out.allowed[to]) continue;
            out.cost[to] = costs[from] - low;
            common = std::gcd(common, out.cost[to]);
        }
        normal.task_offset[static_cast<std::size_t>(j)] = low;
        normal.offset += low;
    }
    normal.granularity = std::max<Int>(common, 1);
    for (Int& c : out.cost) c /= normal.granularity;

    for (int i = 0; i < m; ++i) {
        Int divisor = 0, total = 0;
        for (int j = 0; j < n; ++j) {
            divisor = std::gcd(divisor, out.load[out.at(i, j)]);
            total += out.load[out.at(i, j)];
        }
        divisor = std::max<Int>(divisor, 1);
        for (int j = 0; j < n; ++j) out.load[out.at(i, j)] /= divisor;
        Int& capacity = out.capacity[static_cast<std::size_t>(i)];
        capacity = std::min(capacity / divisor, total / divisor);
    }
    return normal;
}

std::vector<int> find_twins(const Instance& instance) {
    const auto same = [&](const auto& table, int one, int other) {
        const auto a = table.begin() + static_cast<std::ptrdiff_t>(instance.at(one, 0));
        const auto b = table.begin() + static_cast<std::ptrdiff_t>(instance.at(other, 0));
        return std::equal(a, a + instance.num_tasks, b);
    };
    return first_alike(instance.num_units, [&](int one, int other) {
        return instance.capacity[static_cast<std::size_t>(one)] == instance.capacity[static_cast<std::size_t>(other)] &&
               same(instance.allowed, one, other) && same(instance.load, one, other) && same(instance.cost, one, other);
    });
}

Int cost_ceiling(const Instance& instance) {
    Int total = 0;
    for (int j = 0; j < instance.num_tasks; ++j) {
        Int high = 0;
        for (int i = 0; i < instance.num_units; ++i) {
            if (instance.allowed[instance.at(i, j)]) high = std::max(high, instance.cost[instance.at(i, j)]);
        }
        total += high;
    }
    return total;
}

}  // namespace optalloc::assignment
