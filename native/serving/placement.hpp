// Layer ranges on nodes: their largest flow.
#pragma once

#include <span>
#include <vector>

namespace optalloc::serving {

struct FlowInstance {
    int num_nodes, num_layers, max_layers;  // max_layers: columns of the table
    bool partial;
    std::span<const double> throughput;     // num_nodes x max_layers, tokens/s; negative where it does not fit
    std::span<const double> links;          // num_nodes x num_nodes, tokens/s; 0: none
    std::span<const double> source, sink;   // num_nodes, tokens/s
    double limit;                           // seconds a token may take on its route; infinite: any
    std::span<const double> step;           // as throughput, seconds of a step; none without a limit
    std::span<const double> delay;          // (num_nodes + 2) x num_nodes, seconds: links, source, sink
    double rate(int node, int layers) const {
        return throughput[static_cast<std::size_t>(node) * static_cast<std::size_t>(max_layers) +
                          static_cast<std::size_t>(layers - 1)];
    }
    double step_s(int node, int layers) const {
        return step[static_cast<std::size_t>(node) * static_cast<std::size_t>(max_layers) +
                    static_cast<std::size_t>(layers - 1)];
    }
    double delay_s(int a, int b) const {
        return delay[static_cast<std::size_t>(a) * static_cast<std::size_t>(num_nodes) + static_cast<std::size_t>(b)];
    }
    double link(int a, int b) const {
        return links[static_cast<std::size_t>(a) * static_cast<std::size_t>(num_nodes) + static_cast<std::size_t>(b)];
    }
};

// An unused node has begin == end.
struct Range {
    int begin, end;
};

class PlacementFlow {
  public:
    explicit PlacementFlow(const FlowInstance& instance);
    double value(const std::vector<Range>& ranges);

  private:
    void add(int tail, int head, double capacity);
    bool levels();
    double push(int vertex, double amount);
    bool augment(const std::vector<Range>& ranges, double& total);
    const FlowInstance& in_;
    std::vector<int> first_, next_, head_, level_, place_, queue_;
    std::vector<double> rest_, reached_;
    std::vector<int> order_, came_, first_arc_;  // first_arc_: the arc through a node
    std::vector<std::vector<int>> starting_;
};

}  // namespace optalloc::serving
