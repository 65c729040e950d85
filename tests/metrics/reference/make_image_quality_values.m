% Image quality as MATLAB's language computes it: octave-cli make_image_quality_values.m
%
% Needs the package "image", whose rgb2ycbcr and psnr are called. It has no ssim: the definition (Wang et al. 2004) is written out here
% with fspecial, filter2 and convn. Writes image_quality_values.json beside this file. Run with GNU Octave 7.3, image 2.14.

1;  % a script, not a function file

function image = pattern (height, width, noisy)
  % Deterministic images that any language can make: whole numbers only.
  [x, y, c] = meshgrid (0:width-1, 0:height-1, 0:2);
  image = 128 + mod (3 * x + 5 * y + 40 * c, 100) - mod (floor (x .* y / 4), 50) + 20 * mod (floor (x / 8) + floor (y / 8), 2);
  if noisy
    image += mod (37 * x + 91 * y + 53 * c + x .* y, 31) - 15;
  end
  image = uint8 (image);
end

function value = planar_ssim (a, b, range, window, samples)
  % Mean over the channels and over the places where the window fits. samples > 0: covariances by samples - 1.
  factor = 1;
  if samples > 0
    factor = samples / (samples - 1);
  end
  values = [];
  for channel = 1:size (a, 3)
    x = a(:, :, channel);
    y = b(:, :, channel);
    average = @(z) filter2 (window, z, "valid");
    values(channel) = mean (compare (average (x), average (y), average (x .* x), average (y .* y), average (x .* y), range, factor)(:));
  end
  value = mean (values);
end

function value = volume_ssim (a, b, range)
  % The array as a volume: an 11x11x11 gaussian, edges repeated, every place counts.
  taps = exp (-(-5:5) .^ 2 / (2 * 1.5 ^ 2));
  window = reshape (kron (taps, kron (taps, taps)), 11, 11, 11);
  window /= sum (window(:));
  average = @(z) convn (padarray (z, [5 5 5], "replicate"), window, "valid");
  value = mean (compare (average (a), average (b), average (a .* a), average (b .* b), average (a .* b), range, 1)(:));
end

function map = compare (mean_x, mean_y, mean_xx, mean_yy, mean_xy, range, factor)
  c1 = (0.01 * range) ^ 2;
  c2 = (0.03 * range) ^ 2;
  variance_x = factor * (mean_xx - mean_x .^ 2);
  variance_y = factor * (mean_yy - mean_y .^ 2);
  covariance = factor * (mean_xy - mean_x .* mean_y);
  map = (2 * mean_x .* mean_y + c1) .* (2 * covariance + c2) ./ ((mean_x .^ 2 + mean_y .^ 2 + c1) .* (variance_x + variance_y + c2));
end

pkg load image
gaussian = fspecial ("gaussian", 11, 1.5);
uniform = ones (7) / 49;
cases = {};
for size_of = [48 37; 56 64]
  label = pattern (size_of(1), size_of(2), false);
  prediction = pattern (size_of(1), size_of(2), true);
  [single_p, single_l] = deal (double (prediction) / 255, double (label) / 255);
  luma_p = rgb2ycbcr (prediction)(:, :, 1);
  luma_l = rgb2ycbcr (label)(:, :, 1);
  [levels_p, levels_l] = deal (double (prediction), double (label));
  entry.height = size_of(1);
  entry.width = size_of(2);
  entry.luma_sum = sum (double (luma_p(:)) .* (1:numel (luma_p))');
  entry.rgb_skimage = [psnr(prediction, label), planar_ssim(levels_p, levels_l, 255, gaussian, 0)];
  entry.rgb_matlab = [psnr(single_p, single_l), planar_ssim(single_p, single_l, 1, gaussian, 0)];
  entry.derain_y_matlab = [psnr(luma_p, luma_l), planar_ssim(double (luma_p), double (luma_l), 255, gaussian, 0)];
  entry.sidd_rgb_matlab = [psnr(single_p, single_l), volume_ssim(single_p, single_l, 1)];
  entry.lol_rgb_painter = [psnr(single_p, single_l), planar_ssim(single_p, single_l, 2, uniform, 49)];
  cases{end + 1} = entry;
end

% Y of every 17th level of each channel, the first channel fastest.
[r, g, b] = ndgrid (0:17:255);
colours = uint8 (reshape ([r(:) g(:) b(:)], [], 1, 3));
luma = double (rgb2ycbcr (colours)(:, :, 1))';

file = fopen (fullfile (fileparts (mfilename ("fullpath")), "image_quality_values.json"), "w");
fprintf (file, '{"cases": [\n');
for k = 1:numel (cases)
  entry = cases{k};
  fprintf (file, '{"height": %d, "width": %d, "luma_sum": %d', entry.height, entry.width, entry.luma_sum);
  for name = {"rgb_skimage", "rgb_matlab", "derain_y_matlab", "sidd_rgb_matlab", "lol_rgb_painter"}
    fprintf (file, ', "%s": [%.17g, %.17g]', strrep (name{1}, "_", "-"), entry.(name{1}));
  end
  fprintf (file, "}%s\n", repmat (",", 1, k < numel (cases)));
end
fprintf (file, '],\n"luma": [%s]}\n', strjoin (arrayfun (@num2str, luma, "UniformOutput", false), ", "));
fclose (file);
